-- Writes down what a request is going to do, unless something is written down under its id. KEYS: deed.
-- ARGV: content, how long it is kept (ms), whether it frees (1 or 0). Returns what was there, nothing if it is this.
local found = redis.call('GET', KEYS[1])
if found then return found ~= ARGV[1] and found end
-- What is going to free memory is written down when there is none, too: Redis accepts it after a write that takes none.
if ARGV[3] == '1' then redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
