-- KEYS: meta, lease, alerts, commits    ARGV: node, known fence, ttl ms, format, epoch to use if there is none
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known, ttl = tonumber(ARGV[2]), tonumber(ARGV[3])
local meta = redis.call('HMGET', KEYS[1], 'fence', 'format')
local lease = redis.call('HMGET', KEYS[2], 'node', 'fence', 'until', 'ttl')
if lease[1] and lease[1] ~= ARGV[1] then
  local ends, span = tonumber(lease[3]) or 0, tonumber(lease[4]) or ttl
  if ends > now + span then
    -- The store's clock was set back: the holder gets one whole term from now, not the difference.
    ends = now + span
    redis.call('HSET', KEYS[2], 'until', string.format('%.0f', ends))
  end
  if ends > now then
    return {lease[1], lease[2], ends - now}
  end
end
if not meta[2] then
  begin(KEYS[1], KEYS[3], KEYS[4], ARGV[4], ARGV[5])
end
local highest = math.max(tonumber(meta[1]) or 0, tonumber(lease[2]) or 0, known)
local fence = highest
if lease[1] ~= ARGV[1] or tonumber(lease[2]) ~= highest then
  fence = highest + 1
end
local text = string.format('%.0f', fence)
redis.call('HSET', KEYS[1], 'fence', text)
redis.call('HSET', KEYS[2], 'node', ARGV[1], 'fence', text, 'until', string.format('%.0f', now + ttl), 'ttl', ARGV[3])
return {ARGV[1], text, ttl}
