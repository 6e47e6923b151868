-- Creates a group and begins its record, or reports that it exists.
--
-- KEYS stream call_record group_hash
-- ARGV group position max_deliveries default:int call_record_ms
-- REPLY created:bool max_deliveries:int too_many:int
--
-- position       last-delivered ID, as XGROUP CREATE takes it
-- max_deliveries of the group; empty: it has the default, which is the setting's
-- created        by this call; call_record notes it for a second sending
-- too_many       how many groups the stream has, if it may have no more; then nothing was created

-- Try what Redis may refuse before the group is created.
local refused = group_record.refused(group_hash, max_deliveries)
if refused then return refused end
redis.call('SET', call_record, 1, 'XX', 'KEEPTTL')
redis.call('PEXPIRE', call_record, call_record_ms)
local created = true
if group_record.must_not_begin(stream, group) then return reply({too_many = count_groups(stream)}) end
local result = redis.pcall('XGROUP', 'CREATE', stream, group, position, 'MKSTREAM')
if result.err then
  if not string.find(result.err, 'BUSYGROUP', 1, true) then return result end
  created = redis.call('EXISTS', call_record) == 1
else
  group_record.begin(group_hash, max_deliveries)
  redis.call('SET', call_record, 1, 'PX', call_record_ms)
end
return reply({created = created, max_deliveries = limit_of_group(group_hash, default)})
