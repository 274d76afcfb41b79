-- Ends a lease without a change; works when Redis is out of memory. KEYS: row. ARGV: epoch.
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then redis.call('HDEL', KEYS[1], 'lease_until') end
return 1
