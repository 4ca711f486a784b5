-- KEYS: lease    ARGV: node, fence
local lease = redis.call('HMGET', KEYS[1], 'node', 'fence')
if lease[1] == ARGV[1] and lease[2] == ARGV[2] then
  return redis.call('DEL', KEYS[1])
end
return 0
