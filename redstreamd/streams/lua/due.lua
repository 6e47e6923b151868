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
