-- Sets the limit of deliveries of a group (see group_limit.lua), and compares limits.

local group_record = {}

-- Returns the error if the limit could not be set, nil if it could; changes nothing. Redis refuses an odd number of
-- words, but only after it checked the right to the command.
function group_record.refused(group_hash, max_deliveries)
  redis.call('HGET', group_hash, 'max_deliveries')
  local probe = max_deliveries ~= '' and redis.pcall('HSET', group_hash, 'f', 'v', 'g')
  if probe and not string.find(string.lower(probe.err), 'wrong number', 1, true) then return probe end
end

-- Whether a stream has as many groups as it may have, and this is none of them.
function group_record.must_not_begin(stream, group)
  if count_groups(stream) < max_groups then return false end
  local found = redis.pcall('XPENDING', stream, group, '-', '+', 1)
  return found.err and string.find(found.err, 'NOGROUP', 1, true) ~= nil
end

-- Begins the hash of a group that was just created. What is left of a destroyed group of that name is removed by
-- PEXPIRE, to which every user has the right who may create groups here.
function group_record.begin(group_hash, max_deliveries)
  redis.call('PEXPIRE', group_hash, -1)
  if max_deliveries ~= '' then redis.call('HSET', group_hash, 'max_deliveries', max_deliveries) end
end

-- Whether one limit allows more deliveries than another.
function group_record.allows_more(one, other)
  return other ~= 0 and (one == 0 or one > other)
end

