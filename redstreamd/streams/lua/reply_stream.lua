-- Prepares the stream that takes the answers to somebody's requests: it exists, is not longer than it
-- may be, and goes when nobody has used it for a while. Adding to it later keeps its time.
--
-- KEYS  1 the reply stream
-- ARGV  1 most entries  2 how long to keep it, in ms
-- Returns the last ID ever generated in it

local key = KEYS[1]
if redis.call('EXISTS', key) == 0 then
  -- There is no other way to make an empty stream without a group.
  local id = redis.call('XADD', key, '*', 'made', 'empty')
  redis.call('XDEL', key, id)
end
redis.call('XTRIM', key, 'MAXLEN', '~', ARGV[1])
redis.call('PEXPIRE', key, ARGV[2])
local info = redis.call('XINFO', 'STREAM', key)
for index = 1, #info, 2 do
  if info[index] == 'last-generated-id' then return info[index + 1] end
end
