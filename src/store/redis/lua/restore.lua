-- KEYS: meta, lease, alerts, state, open
-- ARGV: fence, epoch, count, then: seq, check, alert id, firing ('1', '0', '' as it was), body
if redis.call('HGET', KEYS[2], 'fence') ~= ARGV[1] then
  return redis.error_reply('FENCED another node holds the lease')
end
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'check')
local seq, check = tonumber(meta[2]) or 0, meta[3]
local fresh = seq == 0 and redis.call('XLEN', KEYS[3]) == 0
if not fresh and meta[1] ~= ARGV[2] then
  return redis.error_reply('DIVERGED the alert log belongs to another epoch')
end
redis.call('HLEN', KEYS[4])
redis.call('ZCARD', KEYS[5])
local count = tonumber(ARGV[3])
local start = 1
for i = 1, count do
  local at = 3 + (i - 1) * 5
  local number, given = tonumber(ARGV[at + 1]), ARGV[at + 2]
  if not fresh and number <= seq then
    -- There already, from the same request asked before; anything else is another history.
    local there = redis.call('XRANGE', KEYS[3], ARGV[at + 1] .. '-0', ARGV[at + 1] .. '-0')[1]
    if not there or there[2][2] ~= given or start ~= i then
      return redis.error_reply('DIVERGED entry ' .. ARGV[at + 1] .. ' is another one in the alert log')
    end
    start = i + 1
  else
    if fresh then
      if number == 1 then check = '' else check = nil end
      fresh, seq = false, number - 1
    end
    if number ~= seq + 1 then
      return redis.error_reply('DIVERGED entry ' .. ARGV[at + 1] .. ' does not follow the head of the alert log')
    end
    if check and string.sub(redis.sha1hex(check .. ARGV[2] .. ARGV[at + 1] .. ARGV[at + 5]), 1, 8) ~= given then
      return redis.error_reply('DIVERGED entry ' .. ARGV[at + 1] .. ' does not continue the chain of the alert log')
    end
    seq, check = number, given
  end
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
for i = start, count do
  local at = 3 + (i - 1) * 5
  local text, given, id, firing, body = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
  redis.call('XADD', KEYS[3], text .. '-0', 'check', given, 'alert', id, 'time', now, 'body', body)
  if id ~= '' then
    redis.call('HSET', KEYS[4], id, text .. '-' .. given .. ' ' .. body)
    if firing == '' then
      firing = redis.call('ZSCORE', KEYS[5], id) and '1' or '0'
    end
    if firing == '1' then
      redis.call('ZADD', KEYS[5], text, id)
    else
      redis.call('ZREM', KEYS[5], id)
    end
  end
end
if start <= count then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'seq', string.format('%.0f', seq), 'check', check)
end
return 1
