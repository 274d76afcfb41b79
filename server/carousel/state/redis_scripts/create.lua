-- A new session, unless one lives under the id. KEYS: row, parts.
-- ARGV: how long it is kept (ms), incarnation, change token, number of row fields and values, those, part names and contents.
local found = redis.call('HMGET', KEYS[1], 'incarnation', 'ending', 'tokens')
if found[1] and not found[2] then
  if string.find(found[3], ARGV[3], 1, true) then return 'ok' end  -- the same call, sent again
  return 'exists'
end
-- This write comes first: it is the one that Redis refuses when it is out of memory.
redis.call('HSET', KEYS[1], 'incarnation', ARGV[2], 'tokens', ARGV[3], 'epoch', '0', 'lease_until', '0')
redis.call('HDEL', KEYS[1], 'ending', 'ended_at', 'end_token')
redis.call('DEL', KEYS[2])
local first = 5 + tonumber(ARGV[4])
for i = 5, first - 1, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = first, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 'ok'
