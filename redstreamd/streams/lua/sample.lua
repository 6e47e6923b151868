-- Reads the counters of a stream and, unless they are many, of its groups and of their consumers.
--
-- KEYS  1 the stream
-- ARGV  1 most groups to read  2 most consumers to read, of all groups together  3 the time in ms since
--       which a consumer is to have been active  4 a consumer that is none
-- Returns {now, entries ever added, length, {{group, pending, entries read, lag, active consumers}, ...}},
--          -1 for what the server cannot tell or was not read, or {} if there is no such stream

local room, since, nobody = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

local function map(flat)
  local values = {}
  for index = 1, #flat, 2 do values[flat[index]] = flat[index + 1] end
  return values
end

if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then return {} end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function active_in(group)
  local active = 0
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group)) do
    local consumer = map(flat)
    -- Until it was split in Redis 7.2, "idle" had nearly the meaning of "inactive": an attempt in vain
    -- did not end it.
    local inactive = consumer['inactive'] or consumer['idle']
    if inactive >= 0 and now - inactive > since and consumer['name'] ~= nobody then active = active + 1 end
  end
  return active
end

local info = map(redis.call('XINFO', 'STREAM', KEYS[1]))
local groups = {}
if info['groups'] <= tonumber(ARGV[1]) then
  for index, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = map(flat)
    local active = -1
    -- A group that does not fit leaves the room to the next.
    if group['consumers'] <= room then
      room = room - group['consumers']
      active = active_in(group['name'])
    end
    groups[index] = {group['name'], group['pending'], group['entries-read'] or -1, group['lag'] or -1, active}
  end
end
return {now, info['entries-added'] or -1, info['length'], groups}
