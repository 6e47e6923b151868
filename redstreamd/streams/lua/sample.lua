-- Reads the counters of a stream and, unless there are too many, of its groups and consumers.
--
-- KEYS stream
-- ARGV max_groups:int max_consumers:int since:int placeholder
-- REPLY now:int added:int length:int groups
--
-- max_consumers of all groups together
-- since         time in ms; consumers that were active after it are counted
-- placeholder   a consumer that is not counted
-- groups        {group, pending, entries read, lag, active consumers}; -1 for what is not known
-- The reply is empty if there is no such stream.

if redis.call('TYPE', stream).ok ~= 'stream' then return {} end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function count_active(group)
  local active = 0
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local consumer = map(flat)
    -- Before Redis 7.2 only "idle" is known, which a read without result resets, too.
    local inactive = consumer['inactive'] or consumer['idle']
    if inactive >= 0 and now - inactive > since and consumer['name'] ~= placeholder then active = active + 1 end
  end
  return active
end

local info = map(redis.call('XINFO', 'STREAM', stream))
local groups = {}
if info['groups'] <= max_groups then
  for index, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = map(flat)
    local active = -1
    -- A group with too many consumers leaves the budget to the next.
    if group['consumers'] <= max_consumers then
      max_consumers = max_consumers - group['consumers']
      active = count_active(group['name'])
    end
    groups[index] = {group['name'], group['pending'], group['entries-read'] or -1, group['lag'] or -1, active}
  end
end
return reply({now = now, added = info['entries-added'], length = info['length'], groups = groups})
