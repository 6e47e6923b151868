-- Reads where streams end, without content of entries.
--
-- KEYS streams...
-- REPLY now:int ends
--
-- ends  of each key {last ID, length, groups}, or nothing if there is no such key

local ends = {}
for index, stream in ipairs(KEYS) do
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if not info.err then
    local values = map(info)
    ends[index] = {values['last-generated-id'], values['length'], values['groups']}
  elseif redis.call('EXISTS', stream) == 0 then
    ends[index] = {}
  else
    return info
  end
end
local clock = redis.call('TIME')
return reply({now = clock[1] * 1000 + math.floor(clock[2] / 1000), ends = ends})
