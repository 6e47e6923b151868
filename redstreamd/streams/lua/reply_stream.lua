-- Creates a reply stream if it does not exist, trims it, and renews its time to live. Adding to it later does
-- not change that. Returns the last ID that was ever generated in it.
--
-- KEYS stream
-- ARGV max_length keep_ms

if redis.call('EXISTS', stream) == 0 then
  -- There is no other way to create an empty stream without a group.
  local id = redis.call('XADD', stream, '*', 'made', 'empty')
  redis.call('XDEL', stream, id)
end
redis.call('XTRIM', stream, 'MAXLEN', '~', max_length)
redis.call('PEXPIRE', stream, keep_ms)
return map(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
