-- A longer lease, for whoever still has it. KEYS: row. ARGV: epoch, lease (ms).
local found = redis.call('HMGET', KEYS[1], 'epoch', 'lease_until')
if found[1] ~= ARGV[1] or found[2] == '0' then return 0 end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
redis.call('HSET', KEYS[1], 'lease_until', string.format('%.0f', now + tonumber(ARGV[2])))
return 1
