-- The due set of a group; needs clock.lua. No other script reads or writes one.
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
-- Time to live in ms after the last due time was set, for a stream or group that is gone. Longer than any lease
-- and any delay of a retry, which are at most 30 days.
local KEEP_DUE = 90 * 86400 * 1000
local ttl_set = false

-- After a due time was set.
local function keep(due_set)
  -- Once a script: none removes the last member after it wrote one.
  if ttl_set then return end
  ttl_set = true
  redis.call('PEXPIRE', due_set, KEEP_DUE)
  clock.save()
end

-- Sets when entries that consumers hold may be taken again: {time, member, ...}.
local function set_all_due(due_set, times)
  redis.call('ZADD', due_set, unpack(times))
  keep(due_set)
end

-- Sets when an entry may be taken again. Until then its consumer holds it, unless it was returned.
local function set_due(due_set, at, member, returned)
  if returned then
    redis.call('ZADD', due_set, at - 0.5, member, at, MARK .. member)
  else
    redis.call('ZADD', due_set, at, member)
  end
  keep(due_set)
end

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

-- Whether `pending`, {entry ID, consumer, idle ms, deliveries}, is still the delivery that a take made to `consumer`
-- at a time of the server's clock. The counter alone does not tell: it begins anew where a group is set back, or
-- destroyed and created again.
local function is_same_delivery(pending, consumer, attempt, taken_at)
  return pending[2] == consumer and pending[4] == attempt and server_now - pending[3] <= taken_at
end

