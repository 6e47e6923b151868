-- Shared by the scripts that compare entry IDs; put in front of them. Both parts of an ID are numbers of
-- 64 bits, more than Lua's numbers can tell apart, so they are compared as text.

local LAST_PART = '18446744073709551615'

-- Whether the entry ID a lies beyond b.
local function beyond(a, b)
  local function key(id)
    local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
    return string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #sequence) .. sequence
  end
  return key(a) > key(b)
end

-- Returns the entry ID that follows another; the greatest has none and stays.
local function after(id)
  local function increased(number)
    local head, digit, nines = string.match(number, '^(.-)([0-8]?)(9*)$')
    return head .. (digit == '' and '1' or digit + 1) .. string.rep('0', #nines)
  end
  local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
  if sequence ~= LAST_PART then return ms .. '-' .. increased(sequence) end
  if ms ~= LAST_PART then return increased(ms) .. '-0' end
  return id
end

