-- KEYS: meta, alerts
local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'check')
return {meta[1] or '', meta[2] or '0', meta[3] or '', oldest and oldest[1] or ''}
