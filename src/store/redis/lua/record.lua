-- KEYS: records, their ends    ARGV: name, '=text' before or '', '=text' after or '', ttl ms or '', most, '1' if the first to end gives way
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local text = redis.call('HGET', KEYS[1], ARGV[1])
local there = text and '=' .. text or ''
redis.call('ZCARD', KEYS[2])
-- The same again, because its answer was lost.
if there == ARGV[3] then
  return 'done'
end
if there ~= ARGV[2] then
  return 'other'
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 'done'
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[2], name)
  redis.call('HDEL', KEYS[1], name)
end
if not text and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then
  if ARGV[6] ~= '1' then
    return 'full'
  end
  local gone = redis.call('ZPOPMIN', KEYS[2])
  redis.call('HDEL', KEYS[1], gone[1])
end
redis.call('HSET', KEYS[1], ARGV[1], string.sub(ARGV[3], 2))
redis.call('ZADD', KEYS[2], ARGV[4] == '' and '+inf' or string.format('%.0f', now + tonumber(ARGV[4])), ARGV[1])
return 'done'
