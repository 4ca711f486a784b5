-- KEYS: meta, open, state, done    ARGV: format, epoch to use if there is none
if redis.call('HSETNX', KEYS[1], 'epoch', ARGV[2]) == 1 then
  redis.call('HSETNX', KEYS[1], 'format', ARGV[1])
end
local open = {}
for i, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  open[i] = redis.call('HGET', KEYS[3], id) or ''
end
return {redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'check', 'commit', 'slot'), redis.call('HGETALL', KEYS[4]), open}
