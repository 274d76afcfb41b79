-- The session for a turn, under a lease. KEYS: row, parts.
-- ARGV: server, lease (ms), token of the change after which the caller knows the parts, how long keys outlive the lease
-- (ms), how long a waiting server is waited for (ms).
local found = redis.call('HMGET', KEYS[1], 'incarnation', 'ending', 'epoch', 'lease_until', 'server', 'tokens', 'expires_at',
  'next', 'next_until')
local function read()
  return redis.call('HMGET', KEYS[1], 'owner', 'incarnation', 'revision', 'position', 'created_at', 'updated_at',
    'expires_at', 'ending', 'ended_at', 'epoch', 'tokens')
end
if not found[1] then return {'missing'} end
if found[2] then return {'ended', read()} end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local is_leased = tonumber(found[4]) > now
local is_waited_for = found[8] and found[8] ~= ARGV[1] and tonumber(found[9]) > now
if is_leased and found[5] ~= ARGV[1] then
  -- Who waits is next, so that a server with a line of its own does not take turn after turn.
  if not is_waited_for then
    redis.call('HSET', KEYS[1], 'next', ARGV[1], 'next_until', string.format('%.0f', now + tonumber(ARGV[5])))
  end
  return {'busy', tonumber(found[4]) - now}
end
if not is_leased then
  if tonumber(found[7]) * 1000 <= now then return {'due', read()} end
  if is_waited_for then return {'busy', tonumber(found[9]) - now} end
end
-- Never an epoch twice, also when Redis has lost its latest writes: it follows the clock.
local epoch = math.max(tonumber(found[3]) + 1, tonumber(clock[1]) * 1000000 + tonumber(clock[2]))
redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch), 'server', ARGV[1],
  'lease_until', string.format('%.0f', now + tonumber(ARGV[2])))
if found[8] == ARGV[1] then redis.call('HDEL', KEYS[1], 'next', 'next_until') end
local kept = tonumber(ARGV[2]) + tonumber(ARGV[4])  -- a turn must not lose its session to the keys' time to live
if redis.call('PTTL', KEYS[1]) < kept then
  redis.call('PEXPIRE', KEYS[1], kept)
  redis.call('PEXPIRE', KEYS[2], kept)
end
local parts = {}
if string.sub(found[6], 1, 16) ~= ARGV[3] then parts = redis.call('HGETALL', KEYS[2]) end
return {'held', read(), parts}
