-- Looks closely at one group of a stream, at a cost that does not grow with what it finds.
--
-- KEYS  1 the stream  2 the group's due set  3 its dead-letter stream  4 the group's record
-- ARGV  1 group  2 max_deliveries by the setting (0: never)  3 most pending entries to
--       look at, the oldest  4 ID after which entries were not delivered yet ("": do not look at these)
--       5 most of them to count  6 bytes of content after which no further one is counted
--       7 deliveries that are many where they have no limit
--       8 to 11 what the daemon knows of the group's clock
-- Returns {now, the oldest pending entry as {entry ID, consumer, idle ms, deliveries} or {}, number of
--          pending entries looked at; of these: near their end, greatest number of deliveries, leased,
--          put off, overdue, due time of the first overdue one or "", held outside redstreamd, the
--          oldest of these or {}, {consumer, its entries that are neither leased nor put off, ...};
--          number of dead letters, ID of the newest or "", first entry not delivered or "", entries
--          counted, 1 if there are no more, max_deliveries of the group,
--          deliveries from which an entry is near its end; ms by which the group's clock is ahead of the
--          server's, ms by which that was last set forward, when that was noticed}

local stream, due, dead, about = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, default, look = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local position, most, room = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])

local now = clock.begin(about, due, 8)

local limit = group_record.max_deliveries(about, default)
local near = limit == 0 and tonumber(ARGV[7]) or math.max(2, math.ceil(limit * 0.8))

local pending = redis.call('XPENDING', stream, group, '-', '+', look)
local worn, worst, leased, put_off, overdue, foreign = 0, 0, 0, 0, 0, 0
local first_overdue, first_foreign, idle, order = nil, {}, {}, {}
for _, held in ipairs(pending) do
  if held[4] >= near then worn = worn + 1 end
  worst = math.max(worst, held[4])
  local due_at, given_back = find_due(due, held[1] .. '/' .. held[4])
  if due_at and due_at > now then
    if given_back then put_off = put_off + 1 else leased = leased + 1 end
  else
    if due_at then
      overdue = overdue + 1
      first_overdue = math.min(first_overdue or due_at, due_at)
    else
      if foreign == 0 then first_foreign = held end
      foreign = foreign + 1
    end
    if not idle[held[2]] then
      idle[held[2]] = 0
      order[#order + 1] = held[2]
    end
    idle[held[2]] = idle[held[2]] + 1
  end
end

local stale = {}
for _, consumer in ipairs(order) do
  stale[#stale + 1] = consumer
  stale[#stale + 1] = idle[consumer]
end

local letters, newest = 0, ''
if redis.call('TYPE', dead).ok == 'stream' then
  letters = redis.call('XLEN', dead)
  local last = redis.call('XREVRANGE', dead, '+', '-', 'COUNT', 1)[1]
  newest = last and last[1] or ''
end

-- Redis has no command that counts a stretch of a stream, so the entries are read; one at a time, because
-- each may be huge.
local counted, complete, undelivered = 0, 0, ''
-- Redis refuses a range that begins beyond the greatest ID; nothing is there.
local LAST = '18446744073709551615-18446744073709551615'
while position ~= '' and counted < most and room > 0 do
  local entry = position ~= LAST and redis.call('XRANGE', stream, '(' .. position, '+', 'COUNT', 1)[1]
  if entry then
    counted = counted + 1
    for _, value in ipairs(entry[2]) do room = room - #value end
    position = entry[1]
    if counted == 1 then undelivered = position end
  end
  if not entry or position == LAST then
    complete = 1
    break
  end
end

-- When the server's clock was last set, and by how much.
local step, noticed = clock.step, server_now
if clock.ahead ~= 0 and step == 0 then
  local last, at = string.match(redis.call('HGET', about, 'clock_step') or '', '^(-?%d+) (%d+)$')
  step, noticed = tonumber(last or 0), tonumber(at or 0)
end
return {
  server_now, pending[1] or {}, #pending, worn, worst, leased, put_off, overdue,
  first_overdue and string.format('%.0f', first_overdue - clock.ahead) or '', foreign, first_foreign, stale,
  letters, newest, undelivered, counted, complete, limit, near, clock.ahead, step, noticed,
}
