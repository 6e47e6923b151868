-- Destroys a group and what redstreamd keeps for it.
--
-- KEYS  1 the stream  2 the group's due set  3 what became of earlier deliveries  4 its dead-letter stream
--       5 its record
-- ARGV  1 group  2 "1" to delete the dead letters, too
-- Returns 1 if there was such a group

local existed = redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[5])
if ARGV[2] == '1' then redis.call('UNLINK', KEYS[4]) end
return existed
