-- Whether another program took an entry out of the pending entries list while it was leased.

-- What is known of the group, once for a script.
local known

-- Returns whether an entry that is not pending was taken out of its group unfinished, as far as that can be known.
-- Redis records neither who acknowledged an entry nor that a consumer was removed. But whoever settles an entry here
-- removes its due time: where that is left, another program was it. It removed the consumer if that is gone, and made
-- the group anew or set it back if that has yet to deliver the entry; else it acknowledged the entry.
local function is_taken_out(stream, group, consumer, id, due_set, member)
  local due_at, returned = find_due(due_set, member)
  if not due_at or returned then return false end
  if not known then
    known = {}
    local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group) -- optional
    known.has_consumer = consumers.err ~= nil
    for _, flat in ipairs(consumers) do known.has_consumer = known.has_consumer or flat[2] == consumer end
    for _, flat in ipairs(redis.pcall('XINFO', 'GROUPS', stream)) do -- optional
      for index = 1, flat[2] == group and #flat or 0, 2 do
        if flat[index] == 'last-delivered-id' then known.position = flat[index + 1] end
      end
    end
  end
  local function key(of)
    local ms, sequence = string.match(of, '^(%d+)-(%d+)$')
    return string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #sequence) .. sequence
  end
  return not known.has_consumer or (known.position and key(id) > key(known.position))
end
