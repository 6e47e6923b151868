-- The clock of a group, for scripts that set or compare due times; needs server_time.lua.
--
-- ARGV clock_name clock_expected:int clock_least:int clock_most:int
--
-- Due times are by the group's clock, which goes on evenly when the server's clock is set. Field `clock` of the
-- group's hash, "<group's time> <server's time> <name>" in ms, records both. From then on the group's time
-- advances as the server's does, and stands still where the server's goes back.
--
-- The daemon measures the time that passed since it last read the group's clock, and sends what the clock should
-- show, at least and at most; clock_name is empty if it knows nothing. Where the server's clock is outside of these
-- bounds it was set, and the daemon's measure counts.
--
-- A record is valid while the group has due times. Then it begins anew at the server's time, under another name;
-- what a daemon knows of another name is not used.
--
-- Every script runs this file, so it defines few functions.

-- The record is written at most once in so many ms, unless the server's clock was set.
local SAVE_INTERVAL = 1000
-- Time to live in ms of a group's hash, and of its due set after the last due time was set, for a stream or group
-- that is gone: 90 days, longer than any lease and any delay of a retry, which are at most 30. As text, see
-- new_entries.lua.
local KEEP_CLOCK = '7776000000'

-- Set by `begin`:
--   now    the group's time in ms, the same throughout a script
--   ahead  by how much it is ahead of the server's
--   step   by how much the server's clock was set forward since the record was written; below 0 for back
--   name   of the record
--   unsaved  the group's hash if the record is to be written, else nil
local clock = {}

-- Determines the group's time and returns it.
function clock.begin(group_hash, due_set)
  clock.now, clock.ahead, clock.step, clock.unsaved = server_now, 0, 0, group_hash
  local last, at, name = string.match(redis.call('HGET', group_hash, 'clock') or '', '^(%d+) (%d+) (%S+)$')
  if last then
    last, at = tonumber(last), tonumber(at)
    local now = last
    if server_now > at then now = last + server_now - at end
    if clock_name == name and (now < clock_least or now > clock_most) then
      now = math.max(last, clock_expected)
    end
    if now == server_now or redis.call('EXISTS', due_set) == 1 then
      clock.now, clock.ahead, clock.name = now, now - server_now, name
      clock.step = last - at - clock.ahead
      if clock.step == 0 and server_now - at < SAVE_INTERVAL then clock.unsaved = nil end
      return now
    end
  end
  clock.name = server_time[1] .. '.' .. server_time[2]
  return server_now
end

-- Writes the record if it is stale. Call this after setting a due time.
function clock.save()
  local group_hash = clock.unsaved
  if not group_hash then return end
  clock.unsaved = nil
  redis.call('HSET', group_hash, 'clock', string.format('%.0f %.0f %s', clock.now, server_now, clock.name))
  if clock.step ~= 0 then
    redis.call('HSET', group_hash, 'clock_step', string.format('%.0f %.0f', clock.step, server_now))
  end
  -- A limit of deliveries does not expire.
  if redis.call('HEXISTS', group_hash, 'max_deliveries') == 1 then
    redis.call('PERSIST', group_hash)
  else
    redis.call('PEXPIRE', group_hash, KEEP_CLOCK)
  end
end

