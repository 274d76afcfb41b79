-- The end of a lease without a change. KEYS: row. ARGV: epoch.
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then redis.call('HSET', KEYS[1], 'lease_until', '0') end
return 1
