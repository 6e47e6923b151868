-- How many groups a stream has. XINFO GROUPS describes all of them: about 3 us for each, in which the server does
-- nothing else. So it is called only where there are few.
--
-- ARGV few_groups:bool max_groups:int
--
-- few_groups  the stream had few groups when the daemon last knew; then they are not counted first
-- max_groups  more are too many to be asked

-- Returns the number of groups; 0 for no stream. The reply of XINFO STREAM has the first and the last entry, which may
-- be large.
local function count_groups(stream)
  local info = redis.pcall('XINFO', 'STREAM', stream) -- optional
  return info.err and 0 or map(info)['groups']
end

-- Returns the number of groups if it is greater than `most`.
local function too_many_groups(stream, most)
  local counted = few_groups and 0 or count_groups(stream)
  return counted > most and counted or nil
end

-- Returns what XINFO GROUPS says of each, and their number; nil instead of the groups if there are more than `most`.
local function groups_up_to(stream, most)
  local too_many = too_many_groups(stream, most)
  if too_many then return nil, too_many end
  local groups = redis.call('XINFO', 'GROUPS', stream)
  return groups, #groups
end

