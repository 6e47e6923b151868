-- Leases new entries of a consumer group where nothing else is to be done: what take_work.lua does most, for which
-- Redis defines little here. The reply is empty, and nothing was changed, if take_work.lua has to be asked: an entry
-- is due, the group's clock is to be saved, the consumer is another principal's or new, or there is nothing new.
--
-- KEYS stream due_set group_hash
-- ARGV group consumer owner default_max_deliveries:int takes:int
-- REPLY now:int taken_at:int expires:int group_limit:int clock_name:text largest:int shares entries
--
-- takes   how many takes this is: each gets up to `count` entries, and as much content
-- shares  of how many entries each of them got, as far as there were any and they are not too large together; the
--         entries follow each other
--
-- As in take_work.lua. The daemon asks this only where take_work.lua found of late that there is no entry of another
-- program to take, and that the stream has few groups.

-- Try what Redis may refuse before anything is claimed, as in take_work.lua.
redis.call('ZADD', due_set, 'XX', '0', '')
-- take_work.lua, which is asked every second, saves the clock.
SAVE_INTERVAL = 5 * SAVE_INTERVAL
local now = clock.begin(group_hash, due_set)
if clock.unsaved or clock.name ~= clock_name then return {} end
if redis.call('HGET', group_hash, 'consumer ' .. consumer) ~= owner then return {} end
-- Up to the next millisecond, since what a release up to 0.1 returned has half a ms more.
local next_ms = string.format('(%.0f', now + 1)
if #redis.call('ZRANGEBYSCORE', due_set, '-inf', next_ms, 'LIMIT', '0', '1') > 0 then return {} end
local group_limit = limit_of_group(group_hash, default_max_deliveries)

local new, due, shares = read_new(stream, group, consumer, count, takes, now + lease_ms, nil, true)
if not new or #new == 0 then return {} end
redis.call('ZADD', due_set, unpack(due))
redis.call('PEXPIRE', due_set, KEEP_CLOCK)

-- Not before the last delivery. Its clock goes on while a script runs, and may have been set back meanwhile.
local time = redis.call('TIME')
return reply({
  now = now, taken_at = math.max(server_now, time[1] * 1000 + math.floor(time[2] / 1000)),
  expires = server_now + lease_ms, group_limit = group_limit, clock_name = clock_name,
  largest = largest, shares = shares,
  -- As in read_page.lua.
  entries = content < math.min(max_bytes * takes, 1048576) and cjson.encode(new) or new,
})
