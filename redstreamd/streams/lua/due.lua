-- Shared by the scripts that say when an entry may be taken again; put in front of them.

-- After so many ms without another due time a due set goes, should its stream or group have gone. Longer than
-- any lease and any delay of a retry, which are 30 days at most.
local KEEP_DUE = 90 * 86400 * 1000

local function set_due(due, at, member)
  redis.call('ZADD', due, at, member)
  redis.call('PEXPIRE', due, KEEP_DUE)
end

-- Whether a score is that of a retry that was put off or released: its half says that nobody holds the entry.
local function is_put_off(score)
  return tonumber(score) % 1 ~= 0
end

-- Whether a record of the pending entries list, {entry ID, consumer, idle time, deliveries}, is that delivery
-- which a take gave to the consumer at a time. The counter alone does not tell: it begins anew where a group
-- is set back, or destroyed and made again.
local function is_of(held, consumer, attempt, at, now)
  return held[2] == consumer and held[4] == attempt and now - held[3] <= at
end
