-- KEYS: count    ARGV: by, window (ms)
-- One key, which need not lie in our slot. A count without an end, whoever left it so, gets one: nobody is locked out for ever.
local used = redis.call('INCRBY', KEYS[1], ARGV[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  left = tonumber(ARGV[2])
end
return {used, left}
