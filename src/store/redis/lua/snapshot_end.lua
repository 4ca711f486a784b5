-- Completes a snapshot. Answers all manifests, for the clean-up.
-- KEYS: lease, snapshots    ARGV: fence, id, manifest
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then
  return redis.error_reply('FENCED another node holds the lease')
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return redis.call('HGETALL', KEYS[2])
