-- Moves what is written down of a request on, unless somebody else has moved it elsewhere. KEYS: deed.
-- ARGV: head of the content as it was seen, head of what it becomes (nothing: it is removed), the rest of that or nothing
-- where it stays. A head is a state and a token. Returns whether it stands there now.
local head = redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1)
if head == ARGV[2] then return 1 end  -- the same call, sent again, or somebody else's to the same end
if head ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
local left = math.max(1, redis.call('PTTL', KEYS[1]))
redis.call('PEXPIRE', KEYS[1], left)  -- takes no memory: after it Redis accepts the rest when it is out of memory, too
if ARGV[3] == '' then
  redis.call('SETRANGE', KEYS[1], 0, ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2] .. ARGV[3], 'PX', left)
end
return 1
