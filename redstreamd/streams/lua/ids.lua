-- Compares entry IDs. Both parts of an ID have 64 bits, more than Lua's numbers can tell apart, so they are
-- compared as text.

local MAX_PART = '18446744073709551615'
-- Redis refuses a range that begins after this ID.
local MAX_ID = MAX_PART .. '-' .. MAX_PART

-- Whether the entry ID a is greater than b.
local function beyond(a, b)
  local function key(id)
    local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
    return string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #sequence) .. sequence
  end
  return key(a) > key(b)
end

-- Returns the next entry ID; the greatest is returned itself.
local function after(id)
  local function increased(number)
    local head, digit, nines = string.match(number, '^(.-)([0-8]?)(9*)$')
    return head .. (digit == '' and '1' or digit + 1) .. string.rep('0', #nines)
  end
  local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
  if sequence ~= MAX_PART then return ms .. '-' .. increased(sequence) end
  if ms ~= MAX_PART then return increased(ms) .. '-0' end
  return id
end

