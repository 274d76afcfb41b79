-- Extends a lease that is still held, and the keys' life beyond it. KEYS: row, parts.
-- ARGV: epoch, lease (ms), how long keys outlive the lease (ms).
local found = redis.call('HMGET', KEYS[1], 'epoch', 'lease_until')
if found[1] ~= ARGV[1] or not found[2] then return 0 end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local kept = math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[2]) + tonumber(ARGV[3]))
-- These come first: after a write that takes no memory, a full Redis accepts the other write too.
redis.call('PEXPIRE', KEYS[1], kept)
redis.call('PEXPIRE', KEYS[2], kept)
redis.call('HSET', KEYS[1], 'lease_until', string.format('%.0f', now + tonumber(ARGV[2])))
return 1
