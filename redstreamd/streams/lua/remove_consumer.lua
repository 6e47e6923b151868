-- Removes a consumer from a group, once its pending entries are somebody else's; a part at a time.
--
-- KEYS  1 the stream  2 the group's due set  3 what became of earlier deliveries
--       4 what an earlier sending of this call did  5 the group's record
-- ARGV  1 group  2 consumer  3 who gets its entries ("": they are lost)  4 ms for which that one alone may
--       resume them ("": nobody holds them, and anybody may take them now); a retry that was put off for
--       longer keeps its time  5 most entries to move  6 the number of this part  7 how long to remember this
--       call, in ms  8 to 11 what the daemon knows of the group's clock
-- Returns {entries moved, entries whose content was gone, 1 if the consumer was removed now,
--          entries lost with it}
-- Errors if the consumer that goes is to get its entries itself: they would go with it.

local stream, due, tried, call, about = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, consumer, heir, lease, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

if heir == consumer then
  return redis.error_reply('ERR a consumer that is removed cannot keep its entries')
end

-- A part whose reply was lost is asked for again: what it did is told, and not done once more.
local part, told = ARGV[6], {}
for number in string.gmatch(redis.call('GET', call) or '', '%d+') do told[#told + 1] = number end
if told[1] == part then return {tonumber(told[2]), tonumber(told[3]), tonumber(told[4]), tonumber(told[5])} end

local function answer(moved, gone, removed, lost)
  redis.call('SET', call, table.concat({part, moved, gone, removed, lost}, ' '), 'PX', ARGV[7])
  return {moved, gone, removed, lost}
end

-- What could be refused is tried before anything is changed: XCLAIM is served when memory is full, and ZADD
-- is not.
redis.call('ZADD', due, 'XX', 0, '')
redis.call('ZADD', tried, 'XX', 0, '')

local now = clock.begin(about, due, 8)
local moved, gone = 0, 0

local function attempt_of(id)
  local held = redis.call('XPENDING', stream, group, id, id, 1)[1]
  return held and held[2] == heir and held[4]
end

local function hand_on(member, due_at, given_back)
  local at = now + (lease or 0)
  if given_back and due_at > at then
    set_due(due, due_at, member, true)
  else
    set_due(due, at, member, not lease)
  end
end

if heir ~= '' then
  local held = redis.call('XPENDING', stream, group, '-', '+', most, consumer)
  for _, each in ipairs(held) do
    -- JUSTID keeps the number of deliveries: the entry was handed on, not delivered.
    redis.call('XCLAIM', stream, group, heir, 0, each[1], 'JUSTID')
    local member = each[1] .. '/' .. each[4]
    local due_at, given_back = find_due(due, member)
    forget_due(due, member)
    local attempt = attempt_of(each[1])
    if attempt then
      hand_on(each[1] .. '/' .. attempt, due_at, given_back)
      moved = moved + 1
    else
      -- Redis drops a pending entry whose content was deleted when it is claimed.
      delivery_history.forget(tried, each[1])
      gone = gone + 1
    end
  end
  if #held == most then return answer(moved, gone, 0, 0) end
end

return answer(moved, gone, 1, redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer))
