-- Describes a stream without sending an entry's content.
--
-- KEYS  1 the stream
-- Returns {now, length, number of groups, IDs of the first and the last entry or "", last ID ever
--          generated, entries ever added, greatest ID ever deleted or "", bytes of memory}, -1 for what
--          the server cannot tell, or {} if there is no such key

local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then
  if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
  return info
end
local values = {}
for index = 1, #info, 2 do values[info[index]] = info[index + 1] end
-- The user may lack the right to this one.
local memory = redis.pcall('MEMORY', 'USAGE', KEYS[1]) -- optional
local clock = redis.call('TIME')
return {
  clock[1] * 1000 + math.floor(clock[2] / 1000), values['length'], values['groups'],
  values['first-entry'] and values['first-entry'][1] or '',
  values['last-entry'] and values['last-entry'][1] or '', values['last-generated-id'],
  values['entries-added'] or -1, values['max-deleted-entry-id'] or '',
  type(memory) == 'number' and memory or -1,
}
