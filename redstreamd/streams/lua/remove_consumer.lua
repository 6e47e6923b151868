-- Moves a consumer's pending entries to another consumer, a part at a time, and then removes it.
--
-- KEYS stream due_set history call_record group_hash
-- ARGV group consumer heir lease_ms:int max_moved:int part call_record_ms
-- REPLY moved:int deleted:int removed:bool lost:int
--
-- heir     who gets the entries; empty: they are lost
-- lease_ms for how long only the heir may resume them; empty: anybody may take them now. A retry that is
--          delayed for longer keeps its time.
-- part     number of this part
-- deleted  pending entries that had been deleted from the stream
-- lost     entries that were removed with the consumer
-- The name of the consumer is free afterwards, for any principal. Refuses to move entries to the consumer itself.

if heir == consumer then
  return redis.error_reply('ERR a consumer that is removed cannot keep its entries')
end

-- If the reply to a part was lost it is asked for again: report what was done, and do not repeat it.
local done = {}
for number in string.gmatch(redis.call('GET', call_record) or '', '%d+') do done[#done + 1] = tonumber(number) end
if done[1] == tonumber(part) then
  return reply({moved = done[2], deleted = done[3], removed = done[4] == 1, lost = done[5]})
end

local function finish(moved, deleted, removed, lost)
  local words = {part, moved, deleted, removed and 1 or 0, lost}
  redis.call('SET', call_record, table.concat(words, ' '), 'PX', call_record_ms)
  return reply({moved = moved, deleted = deleted, removed = removed, lost = lost})
end

-- Try what Redis may refuse before anything is changed: with full memory XCLAIM is served and ZADD is not.
redis.call('ZADD', due_set, 'XX', 0, '')
redis.call('ZADD', history, 'XX', 0, '')

local now = clock.begin(group_hash, due_set)
local moved, deleted = 0, 0

local function attempt_of_heir(id)
  local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
  return pending and pending[2] == heir and pending[4]
end

local function set_new_due(member, due_at, returned)
  local at = now + (lease_ms or 0)
  if returned and due_at > at then
    set_due(due_set, due_at, member, true)
  else
    set_due(due_set, at, member, not lease_ms)
  end
end

if heir ~= '' then
  local page = redis.call('XPENDING', stream, group, '-', '+', max_moved, consumer)
  for _, pending in ipairs(page) do
    -- JUSTID keeps the number of deliveries: moving is not a delivery.
    redis.call('XCLAIM', stream, group, heir, 0, pending[1], 'JUSTID')
    local member = pending[1] .. '/' .. pending[4]
    local due_at, returned = find_due(due_set, member)
    remove_due(due_set, member)
    local attempt = attempt_of_heir(pending[1])
    if attempt then
      set_new_due(pending[1] .. '/' .. attempt, due_at, returned)
      moved = moved + 1
    else
      -- Redis drops a pending entry that was deleted from the stream when it is claimed.
      delivery_history.remove(history, pending[1])
      deleted = deleted + 1
    end
  end
  if #page == max_moved then return finish(moved, deleted, false, 0) end
end

local lost = redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
-- Whose it was; see consumer_owner.lua. Nothing may raise an error after the consumer was removed.
redis.pcall('HDEL', group_hash, 'consumer ' .. consumer) -- optional
return finish(moved, deleted, true, lost)
