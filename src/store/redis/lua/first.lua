-- Makes the installation if there is none, and refuses one that a newer version wrote.
-- KEYS: meta, alerts, commits    ARGV: format, epoch to use if there is none
local format = redis.call('HGET', KEYS[1], 'format')
if not format then
  begin(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2])
  return ARGV[1]
end
return format
