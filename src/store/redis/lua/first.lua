-- Makes the installation if there is none, and refuses one that a newer version wrote.
-- KEYS: meta    ARGV: format, epoch to use if there is none
local format = redis.call('HGET', KEYS[1], 'format')
if not format then
  redis.call('HSET', KEYS[1], 'format', ARGV[1])
  redis.call('HSETNX', KEYS[1], 'epoch', ARGV[2])
  return ARGV[1]
end
return format
