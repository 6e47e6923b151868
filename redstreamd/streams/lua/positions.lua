-- Reads where streams end, without content of entries.
--
-- KEYS streams...
-- REPLY now:int ends
--
-- ends  of each key {last ID, length, groups}, or nothing if there is no such key; of the first keys only, if
--       their first and last entries are large, which XINFO copies

local MOST_BYTES = 65536

local function size(entry)
  local bytes = 0
  for _, text in ipairs(entry and entry[2] or {}) do bytes = bytes + #text end
  return bytes
end

local ends = {}
local bytes = 0
for index, stream in ipairs(KEYS) do
  if bytes > MOST_BYTES then break end
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if not info.err then
    local values = map(info)
    ends[index] = {values['last-generated-id'], values['length'], values['groups']}
    bytes = bytes + size(values['first-entry']) + size(values['last-entry'])
  elseif redis.call('EXISTS', stream) == 0 then
    ends[index] = {}
  else
    return info
  end
end
local clock = redis.call('TIME')
return reply({now = clock[1] * 1000 + math.floor(clock[2] / 1000), ends = ends})
