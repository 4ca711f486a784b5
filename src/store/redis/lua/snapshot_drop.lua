-- KEYS: lease, snapshots, parts…    ARGV: fence, id to forget or ''
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then
  return redis.error_reply('FENCED another node holds the lease')
end
for i = 3, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
if ARGV[2] ~= '' then
  redis.call('HDEL', KEYS[2], ARGV[2])
end
return 1
