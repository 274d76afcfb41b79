-- Returns the session's state by the clock of Redis. KEYS: row.
local values = redis.call('HMGET', KEYS[1], 'owner', 'incarnation', 'revision', 'position', 'created_at', 'updated_at',
  'expires_at', 'ending', 'ended_at', 'epoch', 'tokens')
if not values[2] then return {'missing'} end
if values[8] then return {'ended', values} end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local lease_until = tonumber(redis.call('HGET', KEYS[1], 'lease_until') or 0)
if tonumber(values[7]) <= now and lease_until <= now * 1000 then return {'due', values} end
return {'live', values}
