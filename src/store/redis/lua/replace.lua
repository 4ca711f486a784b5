-- Sets a text that is still what was read (ARGV[1]), to ARGV[2], for as long as it had to live.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1
