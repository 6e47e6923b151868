-- Destroys a group and the keys beside the stream that belong to it. Returns 1 if the group existed.
--
-- KEYS stream due_set history dead_letters group_hash
-- ARGV group delete_dead_letters:bool

local existed = redis.call('XGROUP', 'DESTROY', stream, group)
redis.call('UNLINK', due_set, history, group_hash)
if delete_dead_letters then redis.call('UNLINK', dead_letters) end
return existed
