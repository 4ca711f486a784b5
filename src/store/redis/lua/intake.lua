-- KEYS: intake, seen, seen:ids    ARGV: ttl ms, entries kept, name of this request, then: source, dedup key or '', body
-- Answers a text per item, apart by spaces: '+id' taken now, '=id' taken before.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local items = (#ARGV - 3) / 3
redis.call('XLEN', KEYS[1])
redis.call('ZCARD', KEYS[2])
-- The same request again, because its answer was lost.
local told = redis.call('HGET', KEYS[3], 'request ' .. ARGV[3])
if told then
  return told
end
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 200 + 2 * items)) do
  redis.call('ZREM', KEYS[2], key)
  redis.call('HDEL', KEYS[3], key)
end
local answers = {}
for i = 1, items do
  local at = 3 + (i - 1) * 3
  local source, key, body = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if key ~= '' then
    key = 'event ' .. key
  end
  local known = false
  if key ~= '' then
    local ends = redis.call('ZSCORE', KEYS[2], key)
    known = ends and tonumber(ends) > now and redis.call('HGET', KEYS[3], key)
  end
  if known then
    answers[i] = '=' .. known
  else
    local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', most, '*', 'source', source, 'body', body)
    if key ~= '' then
      redis.call('ZADD', KEYS[2], now + ttl, key)
      redis.call('HSET', KEYS[3], key, id)
    end
    answers[i] = '+' .. id
  end
end
local answer = table.concat(answers, ' ')
redis.call('ZADD', KEYS[2], now + 10000, 'request ' .. ARGV[3])
redis.call('HSET', KEYS[3], 'request ' .. ARGV[3], answer)
local over = redis.call('ZCARD', KEYS[2]) - most
if over > 0 then
  local gone = redis.call('ZPOPMIN', KEYS[2], over)
  for i = 1, #gone, 2 do
    redis.call('HDEL', KEYS[3], gone[i])
  end
end
return answer
