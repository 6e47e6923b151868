-- Shared by the scripts that use a group's due set; put in front of them, after clock.lua. No other script
-- reads or writes one.
--
-- A due set is a sorted set of two kinds of members:
--   "<entry ID>/<attempt>"        -> when the entry may be taken again, in ms of the group's time
--   "given/<entry ID>/<attempt>"  -> the same, if that attempt gave the entry back (put it off or released
--                                    it), so that nobody holds it. Then the entry's own time is half a ms
--                                    less. A mark that is not half a ms later than its entry is stale: the
--                                    entry was leased again as the same attempt, because the group had been
--                                    set back.
-- The attempt is the delivery counter of the pending entries list: whoever else claims the entry changes it,
-- which makes the member stale. Stale members do no harm and go when they come due.
--
-- The half is for releases up to 0.1, which may run again after a rollback. They wrote no marks: a time that
-- ends in half a ms meant that the entry was given back. Half a ms less, and not more, is due in time for them,
-- too. What they wrote is read as given back and due at the whole ms before. They take a mark for a stale
-- member.

local MARK = 'given/'
-- After so many ms without another due time a due set goes, should its stream or group have gone. Longer than
-- any lease and any delay of a retry, which are 30 days at most.
local KEEP_DUE = 90 * 86400 * 1000
local due_kept = false

-- Says when an entry may be taken again. Somebody holds it until then, unless it was given back.
local function set_due(due, at, member, given_back)
  if given_back then
    redis.call('ZADD', due, at - 0.5, member, at, MARK .. member)
  else
    redis.call('ZADD', due, at, member)
  end
  -- Once a script: none removes the last member after it wrote one.
  if due_kept then return end
  due_kept = true
  redis.call('PEXPIRE', due, KEEP_DUE)
  clock.keep()
end

local function forget_due(due, member)
  redis.call('ZREM', due, member, MARK .. member)
end

-- Returns when an entry is due and whether it was given back; nothing if the set does not have it.
local function find_due(due, member)
  local scores = redis.call('ZMSCORE', due, member, MARK .. member)
  local at = tonumber(scores[1] or nil)
  if not at then return nil end
  if at % 1 == 0 then return at, false end
  local marked = tonumber(scores[2] or nil)
  return marked == at + 0.5 and marked or math.floor(at), true
end

-- Whether a record of the pending entries list, {entry ID, consumer, idle time, deliveries}, is that delivery
-- which a take gave to the consumer at a time. The counter alone does not tell: it begins anew where a group
-- is set back, or destroyed and made again. Times are the server's here: those of deliveries are.
local function is_of(held, consumer, attempt, at)
  return held[2] == consumer and held[4] == attempt and server_now - held[3] <= at
end

