-- A change, if the session is what was held, and the end of the lease. KEYS: row, parts.
-- ARGV: incarnation, revision, epoch, change token, how long it is kept (ms), new revision, position, updated_at,
-- expires_at, number of parts to drop, their names, names and contents of parts to put.
local found = redis.call('HMGET', KEYS[1], 'incarnation', 'revision', 'epoch', 'ending', 'tokens')
if found[1] ~= ARGV[1] or found[4] then return 'moved' end
if string.find(found[5], ARGV[4], 1, true) then return 'ok' end  -- the same call, sent again
if tonumber(found[2]) > tonumber(ARGV[2]) + 16 then return 'forgotten' end
if found[2] ~= ARGV[2] or found[3] ~= ARGV[3] then return 'moved' end
local tokens = string.sub(ARGV[4] .. found[5], 1, 16 * 16)  -- of the latest sixteen changes
redis.call('HSET', KEYS[1], 'tokens', tokens, 'revision', ARGV[6], 'position', ARGV[7], 'updated_at', ARGV[8],
  'expires_at', ARGV[9], 'lease_until', '0')
local first = 11 + tonumber(ARGV[10])
for i = 11, first - 1 do redis.call('HDEL', KEYS[2], ARGV[i]) end
for i = first, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return 'ok'
