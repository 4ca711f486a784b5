-- Announces a snapshot, so that the parts of one that is never finished can be found and deleted.
-- KEYS: meta, lease, snapshots    ARGV: fence, number of parts
if redis.call('HGET', KEYS[2], 'fence') ~= ARGV[1] then
  return redis.error_reply('FENCED another node holds the lease')
end
redis.call('HLEN', KEYS[3])
local id = redis.call('HINCRBY', KEYS[1], 'snapshot', 1)
redis.call('HSET', KEYS[3], id, '{"parts":' .. ARGV[2] .. '}')
return id
