-- Examines one group of a stream, at a bounded cost.
--
-- KEYS stream due_set dead_letters group_hash
-- ARGV group default_max_deliveries:int max_pending:int position
-- ARGV max_counted:int max_counted_bytes:int many_deliveries:int
-- REPLY now:int oldest scanned:int near_limit:int most_deliveries:int leased:int retries:int overdue:int
-- REPLY overdue_since:int unleased:int oldest_unleased idle_by_consumer dead_letters:int
-- REPLY newest_dead_letter:text undelivered:text counted:int counted_all:bool max_deliveries:int
-- REPLY near_limit_from:int clock_ahead:int clock_step:int clock_step_at:int
--
-- max_pending     pending entries to examine, the oldest
-- position        ID after which undelivered entries begin; empty: do not look at these
-- max_counted     undelivered entries to count; counting stops after max_counted_bytes of content
-- many_deliveries near_limit_from for groups without a limit of deliveries
-- oldest, oldest_unleased  {entry ID, consumer, idle ms, deliveries} or {}
-- idle_by_consumer  {consumer, its entries that are neither leased nor delayed, ...}
-- clock_ahead     ms by which the group's clock is ahead of the server's
-- clock_step      ms by which the server's clock was last set forward; clock_step_at: when that was noticed

local now = clock.begin(group_hash, due_set)

local limit = limit_of_group(group_hash, default_max_deliveries)
local near_limit_from = limit == 0 and many_deliveries or math.max(2, math.ceil(limit * 0.8))

local listed = redis.call('XPENDING', stream, group, '-', '+', max_pending)
local near_limit, most_deliveries, leased, retries, overdue, unleased = 0, 0, 0, 0, 0, 0
local overdue_since, oldest_unleased, idle, order = nil, {}, {}, {}
for _, pending in ipairs(listed) do
  if pending[4] >= near_limit_from then near_limit = near_limit + 1 end
  most_deliveries = math.max(most_deliveries, pending[4])
  local due_at, returned = find_due(due_set, pending[1] .. '/' .. pending[4])
  if due_at and due_at > now then
    if returned then retries = retries + 1 else leased = leased + 1 end
  else
    if due_at then
      overdue = overdue + 1
      overdue_since = math.min(overdue_since or due_at, due_at)
    else
      if unleased == 0 then oldest_unleased = pending end
      unleased = unleased + 1
    end
    if not idle[pending[2]] then
      idle[pending[2]] = 0
      order[#order + 1] = pending[2]
    end
    idle[pending[2]] = idle[pending[2]] + 1
  end
end

local idle_by_consumer = {}
for _, consumer in ipairs(order) do
  idle_by_consumer[#idle_by_consumer + 1] = consumer
  idle_by_consumer[#idle_by_consumer + 1] = idle[consumer]
end

local letters, newest = 0, nil
if redis.call('TYPE', dead_letters).ok == 'stream' then
  letters = redis.call('XLEN', dead_letters)
  newest = redis.call('XREVRANGE', dead_letters, '+', '-', 'COUNT', 1)[1]
end

-- Redis cannot count a range, so entries are read; one at a time, because each may be huge.
local counted, counted_all, undelivered = 0, false, nil
local bytes_left = max_counted_bytes
while position ~= '' and counted < max_counted and bytes_left > 0 do
  local entry = position ~= MAX_ID and redis.call('XRANGE', stream, '(' .. position, '+', 'COUNT', 1)[1]
  if entry then
    counted = counted + 1
    for _, value in ipairs(entry[2]) do bytes_left = bytes_left - #value end
    position = entry[1]
    if counted == 1 then undelivered = position end
  end
  if not entry or position == MAX_ID then
    counted_all = true
    break
  end
end

-- When the server's clock was last set, and by how much.
local step, noticed = clock.step, server_now
if clock.ahead ~= 0 and step == 0 then
  local last, at = string.match(redis.call('HGET', group_hash, 'clock_step') or '', '^(-?%d+) (%d+)$')
  step, noticed = tonumber(last or 0), tonumber(at or 0)
end
return reply({
  now = server_now, oldest = listed[1] or {}, scanned = #listed, near_limit = near_limit,
  most_deliveries = most_deliveries, leased = leased, retries = retries, overdue = overdue,
  overdue_since = overdue_since and string.format('%.0f', overdue_since - clock.ahead),
  unleased = unleased, oldest_unleased = oldest_unleased, idle_by_consumer = idle_by_consumer,
  dead_letters = letters, newest_dead_letter = newest and newest[1], undelivered = undelivered,
  counted = counted, counted_all = counted_all, max_deliveries = limit, near_limit_from = near_limit_from,
  clock_ahead = clock.ahead, clock_step = step, clock_step_at = noticed,
})
