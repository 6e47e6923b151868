-- Counts a part of a range of entries, at least one if there is any.
--
-- KEYS stream
-- ARGV first last max_entries:int
-- REPLY counted:int reached:text more:bool
--
-- first, last as XRANGE takes them
-- reached  ID of the last entry counted
-- more     there may be more

-- Entries are read whole. More are read at once while they are small, and the script ends after so many bytes.
local at_once, MAX_AT_ONCE, bytes_left = 1, 100, 16 * 1048576

local counted, reached = 0, nil
if first == '(' .. MAX_ID then return reply({counted = 0}) end
while counted < max_entries and bytes_left > 0 do
  local wanted = math.min(at_once, max_entries - counted)
  local page = redis.call('XRANGE', stream, first, last, 'COUNT', wanted)
  counted = counted + #page
  if #page > 0 then reached = page[#page][1] end
  if #page < wanted or reached == MAX_ID then return reply({counted = counted, reached = reached}) end
  for _, entry in ipairs(page) do
    for _, value in ipairs(entry[2]) do bytes_left = bytes_left - #value end
  end
  first = '(' .. reached
  at_once = math.min(4 * at_once, MAX_AT_ONCE)
end
return reply({counted = counted, reached = reached, more = true})
