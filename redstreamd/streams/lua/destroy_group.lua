-- Destroys a group and what redstreamd keeps for it.
--
-- KEYS  1 the stream  2 the group's due set  3 its dead-letter stream
-- ARGV  1 group  2 "1" to delete the dead letters, too
-- Returns 1 if there was such a group

local existed = redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
if ARGV[2] == '1' then redis.call('UNLINK', KEYS[3]) end
return existed
