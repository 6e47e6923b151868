-- Ends or renews leases: acknowledges entries, extends their lease, puts them off or dead-letters them.
-- Atomic per call, and fenced: an entry that another attempt owns by now is left alone.
--
-- KEYS  1 the stream  2 its due set  3 its dead-letter stream  4 what became of earlier deliveries
-- ARGV  1 group  2 consumer  3 done | extend | retry | dead  4 for extend the lease, for retry the
--       delay, in ms  5 for dead and retry the reason  6 for done "1" to delete the entries, too
--       7 deliveries after which a retry is dead-lettered instead (0: never)
--       then pairs of entry ID and attempt
-- Returns {now, {for each pair: done | extended | retried | dead | already | lost}}
-- Errors with NOGROUP if the group does not exist (any more).

local stream, due, dead, tried = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, action = ARGV[1], ARGV[2], ARGV[3]
local delay, reason, delete, max_deliveries = tonumber(ARGV[4]), ARGV[5], ARGV[6] == '1', tonumber(ARGV[7])

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local failed_before = redis.call('EXISTS', tried) == 1

local function acknowledge(id, member)
  redis.call('XACK', stream, group, id)
  redis.call('ZREM', due, member)
  if failed_before then tries.forget(tried, id) end
end

local function dead_letter(id, held, member)
  bury(stream, group, dead, tried, held, reason == '' and 'max_deliveries' or reason)
  acknowledge(id, member)
  return 'dead'
end

local actions = {
  done = function(id, held, member)
    acknowledge(id, member)
    if delete then redis.call('XDEL', stream, id) end
    return 'done'
  end,
  extend = function(id, held, member)
    redis.call('ZADD', due, now + delay, member)
    return 'extended'
  end,
  retry = function(id, held, member)
    if max_deliveries > 0 and held[4] >= max_deliveries then
      return dead_letter(id, held, member)
    end
    redis.call('ZADD', due, now + delay + 0.5, member)
    tries.remember(tried, held, reason, now)
    return 'retried'
  end,
  dead = dead_letter,
}

local outcomes = {}
for index = 8, #ARGV, 2 do
  local id, attempt = ARGV[index], tonumber(ARGV[index + 1])
  local member = id .. '/' .. ARGV[index + 1]
  local held = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if not held then
    redis.call('ZREM', due, member)
    outcomes[#outcomes + 1] = 'already'
  elseif held[2] ~= consumer or held[4] ~= attempt then
    outcomes[#outcomes + 1] = 'lost'
  else
    outcomes[#outcomes + 1] = actions[action](id, held, member)
  end
end
return {now, outcomes}
