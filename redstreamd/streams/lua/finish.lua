-- Acknowledges entries, whose leases end with that. Atomic, and fenced: an entry that another attempt owns is left
-- alone. It is what settle.lua does most, and lets Redis define little for it. It serves several leases of a consumer,
-- each as if it came alone, one after the other.
--
-- KEYS stream due_set history
-- ARGV group consumer leases...
-- REPLY outcomes
--
-- leases         of each: the time of the take, how many entries follow, and pairs of entry ID and attempt
-- outcomes       for each pair, in order: done | already | lost | gone
-- Raises NOGROUP if the group does not exist (any more).
--
-- What this attempt delayed is settled: it comes too late for that. Without any history nothing was delayed.

local has_history = redis.call('EXISTS', history) == 1

-- As texts, which is right for IDs whose parts are as long as each other's, and mostly for others. What is not found in
-- between is asked for alone.
local function is_less(a, b)
  if #a == #b then return a < b end
  return #a < #b
end

local ids, members, wanted, times = {}, {}, {}, {}
local place, from, to = leases, nil, nil
while place < #ARGV do
  local taken_at, last = tonumber(ARGV[place]), place + 2 * ARGV[place + 1]
  for index = place + 2, last, 2 do
    local id = ARGV[index]
    local next = #ids + 1
    ids[next], members[next] = id, id .. '/' .. ARGV[index + 1]
    wanted[next], times[next] = tonumber(ARGV[index + 1]), taken_at
    if not from or is_less(id, from) then from = id end
    if not to or is_less(to, id) then to = id end
  end
  place = last + 2
end

-- The entries mostly follow each other, so that one question finds all of them. What it does not find is asked for
-- alone.
local found = {}
if #ids > 1 then
  local page = redis.call('XPENDING', stream, group, from, to, #ids)
  for index = 1, #page do found[page[index][1]] = page[index] end
end

-- All are acknowledged at once: a call costs more than what it does for one entry.
local outcomes, finished, stale, acknowledged = {}, {}, {}, {}
for index = 1, #ids do
  local id, member = ids[index], members[index]
  local pending = not acknowledged[id] and (found[id] or redis.call('XPENDING', stream, group, id, id, 1)[1])
  local outcome = 'lost'
  if not pending then
    if not acknowledged[id] and is_taken_out(stream, group, consumer, due_set, member) then
      outcome = 'gone'
    else
      remove_due(due_set, member)
      outcome = 'already'
    end
    if has_history then delivery_history.remove(history, id) end
  elseif is_same_delivery(pending, consumer, wanted[index], times[index]) then
    if has_history and select(2, find_due(due_set, member)) then
      outcome = 'already'
    else
      finished[#finished + 1], stale[#stale + 1], acknowledged[id] = id, member, true
      outcome = 'done'
    end
  end
  outcomes[index] = outcome
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
