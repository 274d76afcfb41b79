-- Forgets how a session ended, unless its id is used again. KEYS: row. ARGV: incarnation.
local found = redis.call('HMGET', KEYS[1], 'incarnation', 'ending')
if found[1] == ARGV[1] and found[2] then redis.call('DEL', KEYS[1]) end
return 1
