-- Creates a group and begins its record; or tells that there is one.
--
-- KEYS  1 the stream  2 what an earlier sending of this call did  3 the group's record
-- ARGV  1 group  2 last-delivered ID, as XGROUP CREATE takes it  3 max_deliveries ("": the setting's)
--       4 max_deliveries by the setting  5 how long to remember this call, in ms
-- Returns {1 if this call created the group, max_deliveries of the group}

local stream, call, about = KEYS[1], KEYS[2], KEYS[3]
local group, id, max_deliveries, default, keep = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]

-- What could be refused is tried before anything is created.
local refused = group_record.refused(about, max_deliveries)
if refused then return refused end
redis.call('SET', call, 1, 'XX', 'KEEPTTL')
redis.call('PEXPIRE', call, keep)
local created = 1
local reply = redis.pcall('XGROUP', 'CREATE', stream, group, id, 'MKSTREAM')
if reply.err then
  if not string.find(reply.err, 'BUSYGROUP', 1, true) then return reply end
  created = redis.call('EXISTS', call)
else
  group_record.begin(about, max_deliveries)
  redis.call('SET', call, 1, 'PX', keep)
end
return {created, group_record.max_deliveries(about, default)}
