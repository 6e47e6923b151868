-- Acknowledges entries, whose leases end with that. Atomic, and fenced: an entry that another attempt owns is left
-- alone. It is what settle.lua does most, and lets Redis define little for it.
--
-- KEYS stream due_set history
-- ARGV group consumer taken_at:int attempts...
-- REPLY outcomes
--
-- taken_at       time of the take
-- attempts       pairs of entry ID and attempt
-- outcomes       for each pair: done | already | lost
-- Raises NOGROUP if the group does not exist (any more).
--
-- What this attempt delayed is settled: it comes too late for that. Without any history nothing was delayed.

local has_history = redis.call('EXISTS', history) == 1

-- The entries of a lease mostly follow each other, so that one question finds all of them. What it does not find is
-- asked for alone.
local found = {}
if #ARGV > attempts + 1 then
  local most = (#ARGV - attempts + 1) / 2
  local page = redis.call('XPENDING', stream, group, ARGV[attempts], ARGV[#ARGV - 1], most)
  for index = 1, #page do found[page[index][1]] = page[index] end
end

-- All are acknowledged at once: a call costs more than what it does for one entry.
local outcomes, finished, stale = {}, {}, {}
for index = attempts, #ARGV, 2 do
  local id = ARGV[index]
  local member = id .. '/' .. ARGV[index + 1]
  local pending = found[id] or redis.call('XPENDING', stream, group, id, id, 1)[1]
  local outcome = 'lost'
  if not pending then
    remove_due(due_set, member)
    if has_history then delivery_history.remove(history, id) end
    outcome = 'already'
  elseif is_same_delivery(pending, consumer, tonumber(ARGV[index + 1]), taken_at) then
    if has_history and select(2, find_due(due_set, member)) then
      outcome = 'already'
    else
      finished[#finished + 1], stale[#stale + 1] = id, member
      outcome = 'done'
    end
  end
  outcomes[#outcomes + 1] = outcome
end
if #finished > 0 then
  redis.call('XACK', stream, group, unpack(finished))
  redis.call('ZREM', due_set, unpack(stale))
  for index = 1, has_history and #finished or 0 do
    redis.call('ZREM', due_set, MARK .. stale[index])
    delivery_history.remove(history, finished[index])
  end
end
return reply({outcomes = outcomes})
