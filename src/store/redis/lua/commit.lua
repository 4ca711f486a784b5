-- KEYS: meta, lease, alerts, state, open, done, commits, deadletter, deadletter:seen
-- ARGV: fence, digest of the commit, slot, record (JSON), alerts kept, their retention in ms, dead letters kept,
--       commit records kept, counts of (done, entries, dead letters), then
--       done: stream, entry / entries: alert id, firing, first, body / dead letters: source, stream, entry, reason, body
-- An alert waits for this: as few calls as can be, and nothing read that is not needed.
local call, format = redis.call, string.format
if call('HGET', KEYS[2], 'fence') ~= ARGV[1] then
  return redis.error_reply('FENCED another node holds the lease')
end
local meta = call('HMGET', KEYS[1], 'epoch', 'seq', 'check', 'commit', 'last', 'last_known', 'oldest')
local epoch = meta[1]
if not epoch then
  return redis.error_reply('FENCED the store has no epoch')
end
local seq, check, n = tonumber(meta[2]) or 0, meta[3] or '', tonumber(meta[4]) or 0
if meta[5] == ARGV[2] then
  -- The same commit again, because its answer was lost.
  return {n, seq, tonumber(meta[6]) or 0}
end
local function ahead(key)
  return redis.error_reply('FORMAT ' .. key .. ' is ahead of ' .. KEYS[1])
end
local function number(entry)
  return tonumber(string.match(entry[1], '^(%d+)-'))
end
local function stored(entry)
  return tonumber(entry[2][6]) or 0
end

-- A script that fails is not undone: whatever can be refused is refused before the first write, or by it.
local n_done, n_entries, n_dead = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
if call('XRANGE', KEYS[3], format('%.0f-0', seq + 1), '+', 'COUNT', 1)[1] then
  return ahead(KEYS[3])
end
call('HLEN', KEYS[4])
call('ZCARD', KEYS[5])
if n_done > 0 then
  call('HLEN', KEYS[6])
end
if n_dead > 0 then
  call('XLEN', KEYS[8])
  call('ZCARD', KEYS[9])
end
local kept = call('XLEN', KEYS[3])
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

n = n + 1
local record = redis.pcall('XADD', KEYS[7], 'MAXLEN', '~', ARGV[8], format('%.0f-0', n), 'record', ARGV[4])
if type(record) == 'table' and record.err then
  if string.find(record.err, 'equal or smaller', 1, true) then
    return ahead(KEYS[7])
  end
  return record
end
local known = 0
local before, checks = check, {}
local at = 12
-- In parts: a call takes only so many arguments.
for _ = 1, n_done, 1000 do
  local upto = math.min(at + 2000, 12 + 2 * n_done) - 1
  call('HSET', KEYS[6], unpack(ARGV, at, upto))
  at = upto + 1
end
for _ = 1, n_entries do
  local id, firing, first, body = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  at = at + 4
  if first == '1' and call('HEXISTS', KEYS[4], id) == 1 then
    known = known + 1
    checks[#checks + 1] = ''
  else
    seq = seq + 1
    local text = format('%.0f', seq)
    check = string.sub(redis.sha1hex(check .. epoch .. text .. body), 1, 8)
    checks[#checks + 1] = check
    call('XADD', KEYS[3], text .. '-0', 'check', check, 'alert', id, 'time', format('%.0f', now), 'body', body)
    call('HSET', KEYS[4], id, text .. '-' .. check .. ' ' .. body)
    if firing == '1' then
      call('ZADD', KEYS[5], text, id)
    else
      call('ZREM', KEYS[5], id)
    end
  end
end
local dead_max = tonumber(ARGV[7])
for _ = 1, n_dead do
  local name = ARGV[at] .. '\0' .. ARGV[at + 1] .. '\0' .. ARGV[at + 2]
  if call('ZADD', KEYS[9], 'NX', now, name) == 1 then
    call('XADD', KEYS[8], 'MAXLEN', '~', dead_max, '*', 'source', ARGV[at], 'stream', ARGV[at + 1], 'entry', ARGV[at + 2],
      'reason', ARGV[at + 3], 'body', ARGV[at + 4])
  end
  at = at + 5
end
if n_dead > 0 then
  call('ZREMRANGEBYRANK', KEYS[9], 0, -(dead_max + 1))
end

call('HSET', KEYS[1], 'seq', format('%.0f', seq), 'check', check, 'commit', format('%.0f', n), 'slot', ARGV[3],
  'last', ARGV[2], 'last_known', known)

-- Oldest first out, a bounded number at a time but never fewer than came in. When the oldest was stored is written down, so
-- that it need not be read each time; where that is not known, or has passed, it is looked up.
kept = kept + n_entries - known
local over = kept - tonumber(ARGV[5])
local expired = now - tonumber(ARGV[6])
local oldest = tonumber(meta[7])
if kept > 0 and (over > 0 or not oldest or oldest < expired) then
  local most = 200 + n_entries
  local first = call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
  oldest = stored(first)
  if over > 0 or oldest < expired then
    local count = most
    if over > 0 and oldest >= expired then
      -- And the one that stays.
      count = math.min(over + 1, most)
    end
    local upto
    oldest = nil
    for i, entry in ipairs(call('XRANGE', KEYS[3], '-', '+', 'COUNT', count)) do
      if i > over and stored(entry) >= expired then
        oldest = stored(entry)
        break
      end
      upto = number(entry)
      local id = entry[2][4]
      if id and not call('ZSCORE', KEYS[5], id) then
        local last = call('HGET', KEYS[4], id)
        if last and tonumber(string.match(last, '^(%d+)-')) == upto then
          call('HDEL', KEYS[4], id)
        end
      end
    end
    if upto then
      call('XTRIM', KEYS[3], 'MINID', format('%.0f-0', upto + 1))
    end
  end
end
local text = oldest and format('%.0f', oldest) or ''
if kept > 0 and text ~= (meta[7] or '') then
  call('HSET', KEYS[1], 'oldest', text)
end
return {n, seq, known, before, checks}
