-- A session's end; how it ended is known for a while. KEYS: row, parts.
-- ARGV: incarnation, reason, moment, token of the call, how long it is known (ms).
local found = redis.call('HMGET', KEYS[1], 'incarnation', 'ending', 'end_token')
if found[1] ~= ARGV[1] then return 0 end
if found[2] then
  if found[3] == ARGV[4] then return 1 end  -- the same call, sent again
  return 0
end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'ending', ARGV[2], 'ended_at', ARGV[3], 'end_token', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
