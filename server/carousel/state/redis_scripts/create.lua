-- A new session, unless one lives under the id. KEYS: row, parts, mark of this incarnation.
-- ARGV: incarnation, change token, idle time (ms), lifetime (ms), how long an ending is known (ms), created_at, owner,
-- position, how long the mark is kept (ms; 0: there is none), part names and contents.
-- An incarnation that is there, or was there, is not made again: its mark outlives it, and its namesakes.
local function read()
  return redis.call('HMGET', KEYS[1], 'owner', 'incarnation', 'revision', 'position', 'created_at', 'updated_at',
    'expires_at', 'ending', 'ended_at', 'epoch', 'tokens')
end
local found = redis.call('HMGET', KEYS[1], 'incarnation', 'ending', 'expires_at', 'lease_until')
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
if found[1] == ARGV[1] and not found[2] then return {'ok', read()} end
if found[1] == ARGV[1] or redis.call('EXISTS', KEYS[3]) == 1 then return {'gone'} end
if found[1] and not found[2] then
  if tonumber(found[3]) <= now and tonumber(found[4] or 0) <= now * 1000 then return {'due', read()} end
  return {'exists'}
end
local lives = math.min(tonumber(ARGV[3]), tonumber(ARGV[4]))
-- This write comes first: it is the one that Redis refuses when it is out of memory.
redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], 'tokens', ARGV[2], 'epoch', '0', 'owner', ARGV[7], 'revision', '0',
  'position', ARGV[8], 'created_at', ARGV[6], 'updated_at', ARGV[6], 'expires_at', string.format('%.6f', now + lives / 1000))
redis.call('HDEL', KEYS[1], 'ending', 'ended_at', 'end_token', 'lease_until', 'line')
redis.call('DEL', KEYS[2])
for i = 10, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
if ARGV[9] ~= '0' then redis.call('SET', KEYS[3], '1', 'PX', ARGV[9]) end
redis.call('PEXPIRE', KEYS[1], lives + tonumber(ARGV[5]))
redis.call('PEXPIRE', KEYS[2], lives + tonumber(ARGV[5]))
return {'ok', read()}
