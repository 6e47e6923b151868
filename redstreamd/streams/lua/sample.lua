-- Reads the counters of a stream and, unless they are many, of its groups.
--
-- KEYS  1 the stream
-- ARGV  1 most groups to read
-- Returns {now, entries ever added, length, {{group, pending, entries read, lag}, ...}}, -1 for what the
--          server cannot tell, or {} if there is no such stream

local function map(flat)
  local values = {}
  for index = 1, #flat, 2 do values[flat[index]] = flat[index + 1] end
  return values
end

if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then return {} end
local info = map(redis.call('XINFO', 'STREAM', KEYS[1]))
local groups = {}
if info['groups'] <= tonumber(ARGV[1]) then
  for index, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = map(flat)
    groups[index] = {group['name'], group['pending'], group['entries-read'] or -1, group['lag'] or -1}
  end
end
local clock = redis.call('TIME')
return {
  clock[1] * 1000 + math.floor(clock[2] / 1000), info['entries-added'] or -1, info['length'], groups,
}
