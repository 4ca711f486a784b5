-- KEYS: meta, lease, alerts, state, open, done, commits, deadletter, deadletter:seen
-- ARGV: fence, digest of the commit, slot, record (JSON), alerts kept, their retention in ms, dead letters kept,
--       commit records kept, counts of (done, entries, dead letters), then
--       done: stream, entry / entries: alert id, firing, first, body / dead letters: source, stream, entry, reason, body
if redis.call('HGET', KEYS[2], 'fence') ~= ARGV[1] then
  return redis.error_reply('FENCED another node holds the lease')
end
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'check', 'commit', 'last', 'last_known')
local epoch = meta[1]
if not epoch then
  return redis.error_reply('FENCED the store has no epoch')
end
local seq, check, n = tonumber(meta[2]) or 0, meta[3] or '', tonumber(meta[4]) or 0
if meta[5] == ARGV[2] then
  -- The same commit again, because its answer was lost.
  return {n, seq, tonumber(meta[6]) or 0}
end

-- A script that fails is not undone: whatever can be refused is refused before the first write.
redis.call('HLEN', KEYS[4])
redis.call('ZCARD', KEYS[5])
redis.call('HLEN', KEYS[6])
redis.call('XLEN', KEYS[8])
redis.call('ZCARD', KEYS[9])
local function number(entry)
  return tonumber(string.match(entry[1], '^(%d+)-'))
end
for key, head in pairs({[KEYS[3]] = seq, [KEYS[7]] = n}) do
  local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if newest and number(newest) > head then
    return redis.error_reply('FORMAT ' .. key .. ' is ahead of ' .. KEYS[1])
  end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = 0
local before, checks = check, {}
local at = 12
local n_done, n_entries, n_dead = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
for _ = 1, n_done do
  redis.call('HSET', KEYS[6], ARGV[at], ARGV[at + 1])
  at = at + 2
end
for _ = 1, n_entries do
  local id, firing, first, body = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  at = at + 4
  if first == '1' and redis.call('HEXISTS', KEYS[4], id) == 1 then
    known = known + 1
    checks[#checks + 1] = ''
  else
    seq = seq + 1
    local text = string.format('%.0f', seq)
    check = string.sub(redis.sha1hex(check .. epoch .. text .. body), 1, 8)
    checks[#checks + 1] = check
    redis.call('XADD', KEYS[3], text .. '-0', 'check', check, 'alert', id, 'time', string.format('%.0f', now), 'body', body)
    redis.call('HSET', KEYS[4], id, text .. '-' .. check .. ' ' .. body)
    if firing == '1' then
      redis.call('ZADD', KEYS[5], text, id)
    else
      redis.call('ZREM', KEYS[5], id)
    end
  end
end
local dead_max = tonumber(ARGV[7])
for _ = 1, n_dead do
  local name = ARGV[at] .. '\0' .. ARGV[at + 1] .. '\0' .. ARGV[at + 2]
  if redis.call('ZADD', KEYS[9], 'NX', now, name) == 1 then
    redis.call('XADD', KEYS[8], 'MAXLEN', '~', dead_max, '*', 'source', ARGV[at], 'stream', ARGV[at + 1], 'entry', ARGV[at + 2],
      'reason', ARGV[at + 3], 'body', ARGV[at + 4])
  end
  at = at + 5
end
if n_dead > 0 then
  redis.call('ZREMRANGEBYRANK', KEYS[9], 0, -(dead_max + 1))
end
n = n + 1
redis.call('XADD', KEYS[7], 'MAXLEN', '~', ARGV[8], string.format('%.0f-0', n), 'record', ARGV[4])
redis.call('HSET', KEYS[1], 'seq', string.format('%.0f', seq), 'check', check, 'commit', string.format('%.0f', n), 'slot', ARGV[3],
  'last', ARGV[2], 'last_known', known)

-- Oldest first out, a bounded number at a time but never fewer than came in.
local most = 200 + n_entries
local over = redis.call('XLEN', KEYS[3]) - tonumber(ARGV[5])
local expired = now - tonumber(ARGV[6])
local function stale(entry)
  local fields = entry[2]
  return (tonumber(fields[6]) or 0) < expired
end
local oldest = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
if oldest and (over > 0 or stale(oldest)) then
  local count = most
  if over > 0 and not stale(oldest) then
    count = math.min(over, most)
  end
  local upto
  for i, entry in ipairs(redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', count)) do
    if i > over and not stale(entry) then
      break
    end
    upto = number(entry)
    local id = entry[2][4]
    if id and not redis.call('ZSCORE', KEYS[5], id) then
      local last = redis.call('HGET', KEYS[4], id)
      if last and tonumber(string.match(last, '^(%d+)-')) == upto then
        redis.call('HDEL', KEYS[4], id)
      end
    end
  end
  if upto then
    redis.call('XTRIM', KEYS[3], 'MINID', string.format('%.0f-0', upto + 1))
  end
end
return {n, seq, known, before, checks}
