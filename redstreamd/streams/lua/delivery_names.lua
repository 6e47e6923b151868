-- The history of a group: how the deliveries of entries ended that were not finished.
--
-- A sorted set beside the stream has one member for each such delivery, all with the same score: "<entry
-- ID>/<attempt, 7 digits> <JSON of the rest>". So the members of an entry are a range of names, in the order of
-- attempts. They are removed when the entry is finished or dead-lettered.

local delivery_history = {}

-- Returns the range of an entry's members: '0' follows '/'.
function delivery_history.range(id)
  return '[' .. id .. '/', '(' .. id .. '0'
end

function delivery_history.remove(history, id)
  local from, to = delivery_history.range(id)
  redis.call('ZREMRANGEBYLEX', history, from, to)
end

