-- Delivers new entries to a consumer of a group up to a number and up to a size, but at least one if there is any.
--
-- KEYS  1 the stream
-- ARGV  1 the group  2 the consumer  3 most entries  4 bytes of content after which no further entry is read
-- Returns {{entry ID, {field, value, ...}}, ...}

local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local most, room = tonumber(ARGV[3]), tonumber(ARGV[4])

local delivered = {}
while #delivered < most and room > 0 do
  -- One at a time, because each may be huge, and what was read is delivered.
  local read = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', 1, 'STREAMS', stream, '>')
  local entry = read and read[1][2][1]
  if not entry then break end
  delivered[#delivered + 1] = entry
  for _, value in ipairs(entry[2]) do room = room - #value end
end
return delivered
