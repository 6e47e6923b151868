-- The server's time, and who holds an entry.

local server_time = redis.call('TIME')
-- The server's time in ms; the same throughout a script, and not later than anything it does.
local server_now = server_time[1] * 1000 + math.floor(server_time[2] / 1000)

-- Whether `pending`, {entry ID, consumer, idle ms, deliveries}, is still the delivery that a take made to `consumer`
-- at a time of the server's clock. The counter alone does not tell: it begins anew where a group is set back, or
-- destroyed and created again.
local function is_same_delivery(pending, consumer, attempt, taken_at)
  return pending[2] == consumer and pending[4] == attempt and server_now - pending[3] <= taken_at
end

