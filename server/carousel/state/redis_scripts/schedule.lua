-- Sets when sessions that will be created are due, by the clock of Redis. KEYS: expiries.
-- ARGV: how long they live (ms), members.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local score = string.format('%.6f', now + tonumber(ARGV[1]) / 1000)
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], score, ARGV[i]) end
return 1
