-- Makes the installation if there is none. Where only its numbers were lost, they are those of the newest entries of the logs, so
-- that nothing is stored under a number that is taken.
local function begin(meta, alerts, commits, format, epoch)
  redis.call('HSET', meta, 'format', format)
  redis.call('HSETNX', meta, 'epoch', epoch)
  local newest = redis.call('XREVRANGE', alerts, '+', '-', 'COUNT', 1)[1]
  if newest then
    redis.call('HSETNX', meta, 'seq', string.match(newest[1], '^(%d+)-'))
    redis.call('HSETNX', meta, 'check', newest[2][2])
  end
  newest = redis.call('XREVRANGE', commits, '+', '-', 'COUNT', 1)[1]
  if newest then
    redis.call('HSETNX', meta, 'commit', string.match(newest[1], '^(%d+)-'))
  end
end

