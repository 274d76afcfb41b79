-- Moves the record of a request to its next stage, unless another server has moved it elsewhere. KEYS: deed.
-- ARGV: head of the content as read, new head (empty: removes the record), new rest, or empty if it stays.
-- A head is a state and a token. Returns whether the record has the new head now.
local head = redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1)
if head == ARGV[2] then return 1 end  -- a retry of the same call, or another server's with the same result
if head ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
local left = math.max(1, redis.call('PTTL', KEYS[1]))
redis.call('PEXPIRE', KEYS[1], left)  -- takes no memory: after it a full Redis accepts the rest too
if ARGV[3] == '' then
  redis.call('SETRANGE', KEYS[1], 0, ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2] .. ARGV[3], 'PX', left)
end
return 1
