-- Takes the session for a turn, under a lease. KEYS: row, parts.
-- ARGV: server, lease (ms), token of the change after which the caller knows the parts, how long keys outlive the lease
-- (ms), how long a place in line is kept without asking again (ms).
local found = redis.call('HMGET', KEYS[1], 'incarnation', 'ending', 'epoch', 'lease_until', 'server', 'tokens', 'expires_at',
  'line')
local function read()
  return redis.call('HMGET', KEYS[1], 'owner', 'incarnation', 'revision', 'position', 'created_at', 'updated_at',
    'expires_at', 'ending', 'ended_at', 'epoch', 'tokens')
end
if not found[1] then return {'missing'} end
if found[2] then return {'ended', read()} end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local lease_until = tonumber(found[4] or 0)
local is_leased = lease_until > now
if not is_leased and tonumber(found[7]) * 1000 <= now then return {'due', read()} end
-- The servers that wait, in order of arrival, without those that stopped asking. A server with its own line does not
-- pass them turn after turn.
local line, own_place, first = {}, nil, nil
for server, kept_until in string.gmatch(found[8] or '', '(%x+):(%d+)') do
  if server == ARGV[1] or tonumber(kept_until) > now then
    line[#line + 1] = server .. ':' .. kept_until
    first = first or {server, tonumber(kept_until)}
    if server == ARGV[1] then own_place = #line end
  end
end
local is_others = is_leased and found[5] ~= ARGV[1]
local is_in_front = is_leased or not first or first[1] == ARGV[1]
if is_others or not is_in_front then
  line[own_place or #line + 1] = ARGV[1] .. ':' .. string.format('%.0f', now + tonumber(ARGV[5]))
  redis.call('HSET', KEYS[1], 'line', table.concat(line, ' '))
  return {'busy', math.max(1, (is_leased and lease_until or first[2]) - now)}
end
-- An epoch is never used twice, even when Redis has lost its latest writes: it follows the clock.
local epoch = math.max(tonumber(found[3]) + 1, tonumber(clock[1]) * 1000000 + tonumber(clock[2]))
redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch), 'server', ARGV[1],
  'lease_until', string.format('%.0f', now + tonumber(ARGV[2])))
if own_place then
  table.remove(line, own_place)
  redis.call('HSET', KEYS[1], 'line', table.concat(line, ' '))
end
local kept = tonumber(ARGV[2]) + tonumber(ARGV[4])  -- a turn must not lose its session to the keys' time to live
if redis.call('PTTL', KEYS[1]) < kept then
  redis.call('PEXPIRE', KEYS[1], kept)
  redis.call('PEXPIRE', KEYS[2], kept)
end
local parts = {}
if string.sub(found[6], 1, 16) ~= ARGV[3] then parts = redis.call('HGETALL', KEYS[2]) end
return {'held', read(), parts}
