-- Whether an entry that is not pending is known to be finished.

-- What is known of the group, once for a script.
local known

-- Groups of the stream, and consumers of the group, up to which Redis is asked for all of them: 3 us for each.
local MOST_ASKED = 256

-- Returns whether an entry that is not pending left its group without being settled here, and it is not known that
-- another program acknowledged it. Redis records neither who acknowledged an entry nor that a consumer was removed.
-- But whoever settles an entry here removes its due time: where that is left, it was something else. If the consumer is
-- gone by now, the entry may have gone with it, or been acknowledged before; if the group has yet to deliver the entry,
-- it was made anew or set back. Else, and where there are too many to ask for, it counts as acknowledged.
local function is_taken_out(stream, group, consumer, id, due_set, member)
  local due_at, returned = find_due(due_set, member)
  if not due_at or returned then return false end
  local function value(flat, name)
    for index = 1, #flat, 2 do
      if flat[index] == name then return flat[index + 1] end
    end
  end
  if not known then
    known = {has_consumer = true}
    local info = redis.pcall('XINFO', 'STREAM', stream) -- optional
    local few = (value(info, 'groups') or math.huge) <= MOST_ASKED
    for _, flat in ipairs(few and redis.pcall('XINFO', 'GROUPS', stream) or {}) do -- optional
      if value(flat, 'name') == group then
        known.position = value(flat, 'last-delivered-id')
        if value(flat, 'consumers') <= MOST_ASKED then
          local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group) -- optional
          known.has_consumer = consumers.err ~= nil
          for _, each in ipairs(consumers) do
            known.has_consumer = known.has_consumer or value(each, 'name') == consumer
          end
        end
      end
    end
  end
  local function key(of)
    local ms, sequence = string.match(of, '^(%d+)-(%d+)$')
    return string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #sequence) .. sequence
  end
  return not known.has_consumer or (known.position and key(id) > key(known.position))
end
