-- KEYS: lease, part    ARGV: fence, bytes
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then
  return redis.error_reply('FENCED another node holds the lease')
end
return redis.call('SET', KEYS[2], ARGV[2])
