-- Counts entries, a part of a stream at a time.
--
-- KEYS  1 the stream
-- ARGV  1 first position  2 last position, both as XRANGE takes them  3 most entries to count
-- Returns {entries counted, ID of the last of them or ""}

-- Entries are read whole; a page bounds how many of them lie in memory at a time.
local PAGE = 100

local from, most = ARGV[1], tonumber(ARGV[3])
local counted, last = 0, ''
while counted < most do
  local page = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', math.min(PAGE, most - counted))
  counted = counted + #page
  if #page == 0 then break end
  last = page[#page][1]
  from = '(' .. last
end
return {counted, last}
