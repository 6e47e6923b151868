-- Reads entries up to a number and up to a size, but at least one if there is any.
--
-- KEYS  1 the stream
-- ARGV  1 XRANGE | XREVRANGE  2, 3 the range, as that takes it  4 most entries  5 bytes of content after
--       which no further entry is read
-- Returns {{{entry ID, {field, value, ...}}, ...}, 1 if there are more}

local stream, command, from, to = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local most, room = tonumber(ARGV[4]), tonumber(ARGV[5])

local function following()
  -- One at a time, because each may be huge.
  return redis.call(command, stream, from, to, 'COUNT', 1)[1]
end

local page = {}
local entry = following()
while entry and #page < most and room > 0 do
  page[#page + 1] = entry
  for _, value in ipairs(entry[2]) do room = room - #value end
  -- Redis refuses a range that begins beyond the greatest ID.
  if entry[1] == '18446744073709551615-18446744073709551615' and command == 'XRANGE' then
    entry = nil
  else
    from = '(' .. entry[1]
    entry = following()
  end
end
return {page, entry and 1 or 0}
