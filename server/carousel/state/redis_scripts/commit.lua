-- Applies a change, if the session is what was held, and ends the lease. KEYS: row, parts.
-- ARGV: incarnation, revision, epoch, change token, idle time (ms), lifetime (ms), how long an ending is remembered (ms),
-- position, number of parts to drop, their names, names and contents of parts to put.
local function read()
  return redis.call('HMGET', KEYS[1], 'owner', 'incarnation', 'revision', 'position', 'created_at', 'updated_at',
    'expires_at', 'ending', 'ended_at', 'epoch', 'tokens')
end
local found = redis.call('HMGET', KEYS[1], 'incarnation', 'revision', 'epoch', 'ending', 'tokens', 'created_at')
if found[1] ~= ARGV[1] or found[4] then return {'moved'} end
if string.find(found[5], ARGV[4], 1, true) then return {'ok', read()} end  -- a retry of the same call
if tonumber(found[2]) > tonumber(ARGV[2]) + 16 then return {'forgotten'} end
if found[2] ~= ARGV[2] or found[3] ~= ARGV[3] then return {'moved'} end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local expires_at = math.min(now + tonumber(ARGV[5]) / 1000, tonumber(found[6]) + tonumber(ARGV[6]) / 1000)
-- Writes that take no memory come first: after them a full Redis accepts the rest too. So a turn that has begun
-- is never refused after it was streamed; new turns are, when they take their session.
redis.call('HDEL', KEYS[1], 'lease_until')
redis.call('PEXPIRE', KEYS[1], math.max(0, math.ceil((expires_at - now) * 1000)) + tonumber(ARGV[7]))
local tokens = string.sub(ARGV[4] .. found[5], 1, 16 * 16)  -- of the latest sixteen changes
redis.call('HSET', KEYS[1], 'tokens', tokens, 'revision', string.format('%.0f', tonumber(ARGV[2]) + 1), 'position', ARGV[8],
  'updated_at', string.format('%.6f', now), 'expires_at', string.format('%.6f', expires_at))
local first = 10 + tonumber(ARGV[9])
for i = 10, first - 1 do redis.call('HDEL', KEYS[2], ARGV[i]) end
for i = first, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[2], math.max(0, math.ceil((expires_at - now) * 1000)) + tonumber(ARGV[7]))
return {'ok', read()}
