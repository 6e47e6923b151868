-- Reads entries up to a number and up to a size, but at least one if there is any.
--
-- KEYS  1 the stream
-- ARGV  1 XRANGE | XREVRANGE  2, 3 the range, as that takes it  4 most entries  5 bytes of content after
--       which no further entry is read
-- Returns {{{entry ID, {field, value, ...}}, ...}, 1 if there are more}

local stream, command, from, to = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local most, room = tonumber(ARGV[4]), tonumber(ARGV[5])

-- Nobody knows how large the next entries are. So few are read at a time, and more at a time only while they
-- are small: each call costs about as much as reading ten more entries.
local at_once, MOST_AT_ONCE = 1, 32

-- Redis refuses a range that lies beyond the least or the greatest ID; nothing is there. The read is for its
-- complaint if this is no stream.
local LAST = '18446744073709551615-18446744073709551615'
if from == (command == 'XRANGE' and '(' .. LAST or '(0-0') then
  redis.call('XLEN', stream)
  return {{}, 0}
end

local page = {}
while true do
  -- One beyond the page tells whether there is more.
  local wanted = math.min(at_once, most - #page + 1)
  local entries = redis.call(command, stream, from, to, 'COUNT', wanted) -- XRANGE, XREVRANGE
  for _, entry in ipairs(entries) do
    if #page == most or room <= 0 then return {page, 1} end
    page[#page + 1] = entry
    for _, value in ipairs(entry[2]) do room = room - #value end
  end
  if #entries < wanted then return {page, 0} end
  local last = page[#page][1]
  if command == 'XRANGE' and last == LAST then return {page, 0} end
  from = '(' .. last
  at_once = room > 0 and math.min(4 * at_once, MOST_AT_ONCE) or 1
end
