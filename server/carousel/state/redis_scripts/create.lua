-- Creates a session, unless one lives under the id. KEYS: row, parts.
-- ARGV: incarnation, change token, idle time (ms), lifetime (ms), how long an ending is remembered (ms), created_at, owner,
-- position, part names and contents. An incarnation that exists or existed is not created again: `past` has the last
-- ones that ended under the id.
local function read()
  return redis.call('HMGET', KEYS[1], 'owner', 'incarnation', 'revision', 'position', 'created_at', 'updated_at',
    'expires_at', 'ending', 'ended_at', 'epoch', 'tokens')
end
local max_past = 16
local found = redis.call('HMGET', KEYS[1], 'incarnation', 'ending', 'expires_at', 'lease_until', 'past')
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
if found[1] == ARGV[1] then return {found[2] and 'ended' or 'ok', read()} end
local past = {}
for one in string.gmatch(found[5] or '', '%S+') do
  if one == ARGV[1] then return {'ended'} end
  past[#past + 1] = one
end
if found[1] and not found[2] then
  if tonumber(found[3]) <= now and tonumber(found[4] or 0) <= now * 1000 then return {'due', read()} end
  return {'exists'}
end
local lives = math.min(tonumber(ARGV[3]), tonumber(ARGV[4]))
-- This write comes first: a full Redis refuses it.
redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], 'tokens', ARGV[2], 'epoch', '0', 'owner', ARGV[7], 'revision', '0',
  'position', ARGV[8], 'created_at', ARGV[6], 'updated_at', ARGV[6], 'expires_at', string.format('%.6f', now + lives / 1000))
if found[1] then
  table.insert(past, 1, found[1])
  redis.call('HSET', KEYS[1], 'past', table.concat(past, ' ', 1, math.min(#past, max_past)))
end
redis.call('HDEL', KEYS[1], 'ending', 'ended_at', 'end_token')
redis.call('DEL', KEYS[2])
for i = 9, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], lives + tonumber(ARGV[5]))
redis.call('PEXPIRE', KEYS[2], lives + tonumber(ARGV[5]))
return {'ok', read()}
