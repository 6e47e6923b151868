-- Whether an entry that is not pending is known to be finished.

-- Whether the group has the consumer, once for a script.
local has_consumer

-- Of a consumer Redis tells at a cost that grows with nothing only when it creates it: 0 means that it was there. What
-- this creates it deletes again, so nobody sees it. Where Redis refuses, it counts as there. Not for want of memory:
-- after a write, such as of nothing, it refuses a script no other for that.
local function is_consumer(stream, group, consumer, due_set)
  redis.call('ZREM', due_set, '')
  local created = redis.pcall('XGROUP', 'CREATECONSUMER', stream, group, consumer) -- optional
  if created ~= 1 then return true end
  redis.pcall('XGROUP', 'DELCONSUMER', stream, group, consumer) -- optional
  return false
end

-- Returns whether an entry that is not pending left its group without being settled here, and it is not known that
-- another program acknowledged it. Redis records neither who acknowledged an entry nor that a consumer was removed.
-- But whoever settles an entry here removes its due time: where that is left, it was something else. If the consumer is
-- gone by now, the entry may have gone with it, or been acknowledged before. Else it counts as acknowledged.
local function is_taken_out(stream, group, consumer, due_set, member)
  local due_at, returned = find_due(due_set, member)
  if not due_at or returned then return false end
  if has_consumer == nil then has_consumer = is_consumer(stream, group, consumer, due_set) end
  return not has_consumer
end
