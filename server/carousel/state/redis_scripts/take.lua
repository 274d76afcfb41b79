-- The session for a turn, under a lease. KEYS: row, parts.
-- ARGV: server, lease (ms), token of the change after which the caller knows the parts.
local found = redis.call('HMGET', KEYS[1], 'incarnation', 'ending', 'epoch', 'lease_until', 'server', 'tokens')
local function read()
  return redis.call('HMGET', KEYS[1], 'owner', 'incarnation', 'revision', 'position', 'created_at', 'updated_at',
    'expires_at', 'ending', 'ended_at', 'epoch', 'tokens')
end
if not found[1] then return {'missing'} end
if found[2] then return {'ended', read()} end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
if tonumber(found[4]) > now and found[5] ~= ARGV[1] then return {'busy', tonumber(found[4]) - now} end
-- Never an epoch twice, also when Redis has lost its latest writes: it follows the clock.
local epoch = math.max(tonumber(found[3]) + 1, tonumber(clock[1]) * 1000000 + tonumber(clock[2]))
redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch), 'server', ARGV[1],
  'lease_until', string.format('%.0f', now + tonumber(ARGV[2])))
local parts = {}
if string.sub(found[6], 1, 16) ~= ARGV[3] then parts = redis.call('HGETALL', KEYS[2]) end
return {'held', read(), parts}
