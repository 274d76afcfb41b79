-- Sets when entries that are not due are checked again; works when Redis is out of memory. KEYS: expiries.
-- ARGV: moments and members.
for i = 1, #ARGV, 2 do
  -- Removed first: after a write that frees, Redis accepts the one that does not.
  if redis.call('ZREM', KEYS[1], ARGV[i + 1]) == 1 then redis.call('ZADD', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return 1
