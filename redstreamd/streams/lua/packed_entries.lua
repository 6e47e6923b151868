-- Entries in MessagePack: an array of maps of their names and values, which are in their order there.
--
-- ARGV entries more:int
--
-- more  how many names and values follow on each map, without a head of their own

-- Returns the length of the array or map at an offset in `entries`, and the offset of its first part.
local function open_packed(at)
  local tag, high, low = string.byte(entries, at + 1, at + 3)
  -- Those of up to 15 parts have the length in the tag, longer ones in two bytes behind it.
  if tag < 0xdc then return tag % 16, at + 1 end
  return 256 * high + low, at + 3
end
local entry_count, entries_at = open_packed(0)

-- Calls a function with the names and values of each, and returns what it returned: the entry IDs.
local function add_all(add)
  local ids = {}
  local function add_one(behind, ...)
    entries_at = behind
    ids[#ids + 1] = add(...)
  end
  for _ = 1, entry_count do
    local members, first = open_packed(entries_at)
    -- Unpacked to arguments and not to a table, which would lose their order, and costs more.
    add_one(cmsgpack.unpack_limit(entries, 2 * (members + more), first))
  end
  return ids
end

