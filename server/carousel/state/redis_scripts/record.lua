-- Records what a request will do, unless its id has a record already. KEYS: deed.
-- ARGV: content, how long it is kept (ms), whether it frees memory (1 or 0). Returns an earlier record, if it differs.
local found = redis.call('GET', KEYS[1])
if found then return found ~= ARGV[1] and found end
-- A request that frees memory is recorded even without any: Redis accepts it after a write that takes none.
if ARGV[3] == '1' then redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
