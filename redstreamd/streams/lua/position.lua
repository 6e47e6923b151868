-- Tells where a stream ends, without sending an entry's content.
--
-- KEYS  1 the stream
-- Returns {last entry ID ever generated, length, number of groups, now in ms}, or {} if there is no such key

local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then
  if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
  return info
end
local values = {}
for index = 1, #info, 2 do values[info[index]] = info[index + 1] end
local clock = redis.call('TIME')
return {
  values['last-generated-id'], values['length'], values['groups'],
  clock[1] * 1000 + math.floor(clock[2] / 1000),
}
