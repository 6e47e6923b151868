-- Shared by the scripts that create groups or go by what was agreed for one; put in front of them.
--
-- The record of a group is a hash beside the stream: max_deliveries says after how many deliveries an entry is
-- dead-lettered, 0 for never. A group without this field goes by the daemon's setting.

local group_record = {}

-- Finds out whether a record may be begun, before the group is there: returns the error if not. An odd number of
-- words is refused in any case, after the right to the command, and changes nothing.
function group_record.refused(about, max_deliveries)
  redis.call('HGET', about, 'max_deliveries')
  local probe = max_deliveries ~= '' and redis.pcall('HSET', about, 'f', 'v', 'g')
  if probe and not string.find(string.lower(probe.err), 'wrong number', 1, true) then return probe end
end

-- Begins the record of a group that was just created. What a destroyed group of the same name left does not count;
-- it goes by PEXPIRE, for which every user has the right who may do this at all.
function group_record.begin(about, max_deliveries)
  redis.call('PEXPIRE', about, -1)
  if max_deliveries ~= '' then redis.call('HSET', about, 'max_deliveries', max_deliveries) end
end

-- Returns the group's max_deliveries; the default where none was set, or where another program wrote what is none.
function group_record.max_deliveries(about, default)
  local kept = tonumber(redis.call('HGET', about, 'max_deliveries') or nil)
  if kept and kept >= 0 and kept <= 1000000 and kept % 1 == 0 then return kept end
  return default
end

-- Whether one max_deliveries allows more deliveries than another.
function group_record.allows_more(one, other)
  return other ~= 0 and (one == 0 or one > other)
end
