-- Records an ending of an owner's session; returns the oldest one beyond the bound, to be forgotten.
-- KEYS: endings of the owner. ARGV: id and incarnation, how many are remembered, how long (ms).
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if redis.call('LLEN', KEYS[1]) > tonumber(ARGV[2]) then return redis.call('LPOP', KEYS[1]) end
return false
