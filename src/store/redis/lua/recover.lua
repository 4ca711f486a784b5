-- KEYS: meta, open, state, done, alerts, commits    ARGV: format, epoch to use if there is none
if redis.call('HEXISTS', KEYS[1], 'epoch') == 0 then
  begin(KEYS[1], KEYS[5], KEYS[6], ARGV[1], ARGV[2])
end
local open = {}
for i, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  open[i] = redis.call('HGET', KEYS[3], id) or ''
end
return {redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'check', 'commit', 'slot'), redis.call('HGETALL', KEYS[4]), open}
