-- Gives up a server's place in the line for a session. KEYS: row. ARGV: server.
local line = redis.call('HGET', KEYS[1], 'line')
if not line then return 0 end
local rest = {}
for place in string.gmatch(line, '%S+') do
  if string.match(place, '^%x+') ~= ARGV[1] then rest[#rest + 1] = place end
end
redis.call('HDEL', KEYS[1], 'line')
if #rest > 0 then redis.call('HSET', KEYS[1], 'line', table.concat(rest, ' ')) end
return 1
