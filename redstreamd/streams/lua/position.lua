-- Reads where a stream ends, without content of entries. The reply is empty if there is no such key.
--
-- KEYS stream
-- REPLY last_id:text length:int groups:int now:int

local info = redis.pcall('XINFO', 'STREAM', stream)
if info.err then
  if redis.call('EXISTS', stream) == 0 then return {} end
  return info
end
local values = map(info)
local clock = redis.call('TIME')
return reply({
  last_id = values['last-generated-id'], length = values['length'], groups = values['groups'],
  now = clock[1] * 1000 + math.floor(clock[2] / 1000),
})
