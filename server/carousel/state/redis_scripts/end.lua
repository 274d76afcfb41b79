-- Ends a session and remembers how for a while, unless its creation is undone. KEYS: row, parts.
-- ARGV: incarnation, reason, token of the call, how long the ending is remembered (ms), lifetime (ms), revision or '' for any.
-- The clock ends only a session that is not held, is due by the clock of Redis and is unchanged.
local found = redis.call('HMGET', KEYS[1], 'incarnation', 'ending', 'end_token', 'expires_at', 'created_at', 'revision',
  'lease_until', 'ended_at')
if found[1] ~= ARGV[1] then return {0} end
if found[2] then
  if found[3] == ARGV[3] then return {1, found[2], found[8]} end  -- a retry of the same call
  return {0}
end
if ARGV[6] ~= '' and found[6] ~= ARGV[6] then return {0} end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local reason = ARGV[2]
if reason == 'idle' or reason == 'age' then
  if tonumber(found[7] or 0) > now * 1000 or tonumber(found[4]) > now then return {0} end
  -- Moments have six digits after the point, so sums of them may differ in the last.
  local is_old = tonumber(found[4]) >= tonumber(found[5]) + tonumber(ARGV[5]) / 1000 - 0.00001
  reason = is_old and 'age' or 'idle'
end
redis.call('DEL', KEYS[2])  -- frees memory first: then a full Redis accepts the other write too
local at = string.format('%.6f', now)
if reason == 'undone' then
  redis.call('DEL', KEYS[1])
  return {1, reason, at}
end
redis.call('HSET', KEYS[1], 'ending', reason, 'ended_at', at, 'end_token', ARGV[3])
redis.call('HDEL', KEYS[1], 'lease_until', 'line', 'tokens', 'server')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {1, reason, at}
