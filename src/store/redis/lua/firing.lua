-- KEYS: open, state
local open = {}
for i, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  open[i] = redis.call('HGET', KEYS[2], id) or ''
end
return open
