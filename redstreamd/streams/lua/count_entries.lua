-- Counts entries, a part of a stream at a time.
--
-- KEYS  1 the stream
-- ARGV  1 first position  2 last position, both as XRANGE takes them  3 most entries to count
-- Returns {entries counted, at least one if there is any; ID of the last of them or ""; 1 if there may be more}

-- Entries are read whole. So few are read at a time, more at a time only while they are small, and the
-- script ends once it has read so many bytes.
local at_once, MOST_AT_ONCE, room = 1, 100, 16 * 1048576

local from, most = ARGV[1], tonumber(ARGV[3])
local counted, last = 0, ''
-- Redis refuses a range that begins beyond the greatest ID; nothing is there.
local LAST = '18446744073709551615-18446744073709551615'
if from == '(' .. LAST then return {0, '', 0} end
while counted < most and room > 0 do
  local wanted = math.min(at_once, most - counted)
  local page = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', wanted)
  counted = counted + #page
  if #page > 0 then last = page[#page][1] end
  if #page < wanted or last == LAST then return {counted, last, 0} end
  for _, entry in ipairs(page) do
    for _, value in ipairs(entry[2]) do room = room - #value end
  end
  from = '(' .. last
  at_once = math.min(4 * at_once, MOST_AT_ONCE)
end
return {counted, last, 1}
