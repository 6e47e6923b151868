-- Shared by the scripts that set or compare due times; put in front of lease_deadlines.lua.
--
-- Due times are not times of the server's clock but of the group's, which goes on evenly when the server's
-- clock is set back or forward. Beside the group lies how both stood when the group's was last written down:
-- field `clock` of the group's record, "<group's time> <server's time> <name>", in ms. From then on the group's
-- time advances as the server's does, and by nothing where the server's went back.
--
-- A daemon adds what it knows: it has counted, by a clock of its own that nobody sets, how much time passed
-- since it last heard of the group's time. Where that and the server's clock differ by more than can be
-- explained by delays, the server's clock was set, and the daemon's count decides.
--
-- A record counts only as long as something has a due time; then it begins anew under another name, at the
-- server's time. What a daemon knows of a record of another name is not used.

-- These files are run anew with each script, so they make few functions.

-- The record is written at most once in so many ms, unless the server's clock was set.
local RENEW_AFTER = 1000
-- After so many ms without a due time a record goes; as due sets do.
local KEEP_RECORD = 90 * 86400 * 1000

local server_time = redis.call('TIME')
-- The server's time in ms, the same throughout a script and not later than anything that it does.
local server_now = server_time[1] * 1000 + math.floor(server_time[2] / 1000)

-- Set by `begin`: now is the group's time in ms, the same throughout a script; ahead is by how much that is
-- ahead of the server's; step is by how much the server's clock was set forward since the record was written,
-- less than 0 if back; name is that of the record; record is its key if it is to be written, else nothing.
local clock = {}

-- Finds out what the group's clock shows, and returns it.
-- about is the key of the group's record, due that of its due set. What the daemon knows is in four ARGV from
-- number `told` on, or "" if it knows nothing: the name of the record, the time that it should be, the least
-- that it can be, and the most.
function clock.begin(about, due, told)
  clock.now, clock.ahead, clock.step, clock.record = server_now, 0, 0, about
  local last, at, name = string.match(redis.call('HGET', about, 'clock') or '', '^(%d+) (%d+) (%S+)$')
  if last then
    last, at = tonumber(last), tonumber(at)
    local now = last
    if server_now > at then now = last + server_now - at end
    if ARGV[told] == name and (now < tonumber(ARGV[told + 2]) or now > tonumber(ARGV[told + 3])) then
      now = math.max(last, tonumber(ARGV[told + 1]))
    end
    if now == server_now or redis.call('EXISTS', due) == 1 then
      clock.now, clock.ahead, clock.name = now, now - server_now, name
      clock.step = last - at - clock.ahead
      if clock.step == 0 and server_now - at < RENEW_AFTER then clock.record = nil end
      return now
    end
  end
  clock.name = server_time[1] .. '.' .. server_time[2]
  return server_now
end

-- Writes the record if it is stale. To be called by whoever sets a due time.
function clock.keep()
  local record = clock.record
  if not record then return end
  clock.record = nil
  redis.call('HSET', record, 'clock', string.format('%.0f %.0f %s', clock.now, server_now, clock.name))
  if clock.step ~= 0 then
    redis.call('HSET', record, 'clock_step', string.format('%.0f %.0f', clock.step, server_now))
  end
  -- Other fields are settings, and stay.
  if redis.call('HEXISTS', record, 'max_deliveries') == 1 then
    redis.call('PERSIST', record)
  else
    redis.call('PEXPIRE', record, KEEP_RECORD)
  end
end

