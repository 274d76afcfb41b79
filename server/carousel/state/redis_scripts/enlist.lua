-- Adds entries to an owner's sessions, if there is room for the new ones; returns the entries' times, by the
-- clock of Redis. KEYS: the owner's sessions. ARGV: how many there may be, or '', members.
local num_new = 0
for i = 2, #ARGV do
  if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then num_new = num_new + 1 end
end
if num_new > 0 and ARGV[1] ~= '' and redis.call('ZCARD', KEYS[1]) + num_new > tonumber(ARGV[1]) then return {'full'} end
local clock = redis.call('TIME')
local now = string.format('%.6f', tonumber(clock[1]) + tonumber(clock[2]) / 1000000)
local moments = {}
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], 'NX', now, ARGV[i])
  moments[i - 1] = redis.call('ZSCORE', KEYS[1], ARGV[i])
end
return {'ok', moments}
