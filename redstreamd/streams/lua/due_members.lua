-- The members of a group's due set. Only scripts with this file read or write one, and
-- take_new.lua adds the first of both kinds.
--
-- A due set is a sorted set with two kinds of members:
--   "<entry ID>/<attempt>"        -> when the entry may be taken again, in ms by the group's clock
--   "given/<entry ID>/<attempt>"  -> a mark with the same time, if that attempt returned the entry (delayed or
--                                    released it), so that nobody holds it. The entry's own time is then half a
--                                    ms less. A mark that is not half a ms later than its entry is stale: the
--                                    group was set back, and the entry was leased again as the same attempt.
-- The attempt is the delivery counter of the pending entries list. A claim changes the counter, which makes the
-- member stale. Stale members do no harm and are removed when they come due.
--
-- The half is for releases up to 0.1, which may run again after a rollback. They wrote no marks: for them a time
-- that ends in half a ms means that the entry was returned. With half a ms less it is due in time for them, too.
-- What they wrote is read as returned and due at the whole ms before. They take a mark for a stale member.

local MARK = 'given/'

local function remove_due(due_set, member)
  redis.call('ZREM', due_set, member, MARK .. member)
end

-- Returns when an entry is due and whether it was returned; nil if it has no due time.
local function find_due(due_set, member)
  local scores = redis.call('ZMSCORE', due_set, member, MARK .. member)
  local at = tonumber(scores[1] or nil)
  if not at then return nil end
  if at % 1 == 0 then return at, false end
  local marked = tonumber(scores[2] or nil)
  return marked == at + 0.5 and marked or math.floor(at), true
end

