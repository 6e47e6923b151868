-- Delivers new entries to a consumer of a group, up to a number and a size, but at least one if there is any.
-- Returns {{entry ID, {name, value, ...}}, ...}.
--
-- KEYS stream group_hash
-- ARGV group consumer max_entries:int max_bytes:int

local unrecorded
consumer, unrecorded = consumer_owner.find(group_hash, consumer)

local delivered, bytes_left = {}, max_bytes
while #delivered < max_entries and bytes_left > 0 do
  -- One at a time, because each may be huge, and what was read is delivered.
  local read = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', 1, 'STREAMS', stream, '>')
  local entry = read and read[1][2][1]
  if not entry then break end
  delivered[#delivered + 1] = entry
  for _, value in ipairs(entry[2]) do bytes_left = bytes_left - #value end
end
if #delivered > 0 and unrecorded then consumer_owner.record(group_hash, unrecorded) end
return delivered
