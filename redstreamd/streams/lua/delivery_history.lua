-- What is recorded in the history of a group; needs delivery_names.lua.

-- Deliveries kept of an entry, the latest.
local MAX_KEPT = 20
-- The greatest attempt that 7 digits hold; and the delivery counter that counts as infinite. Only another program
-- can set a counter beyond either.
local MAX_ATTEMPT, COUNTER_LIMIT = 9999999, 2147483648
-- Time to live of the set in ms after the last failure. Longer than any retry can be delayed.
local KEEP_HISTORY = 60 * 86400 * 1000

-- Records how a delivery ended, and replaces what was recorded for the same delivery.
-- pending: its record of the pending entries list, {entry ID, consumer, idle ms, deliveries}.
function delivery_history.add(history, pending, reason, now)
  local name = string.format('%s/%07d', pending[1], math.min(pending[4], MAX_ATTEMPT))
  redis.call('ZREMRANGEBYLEX', history, '[' .. name .. ' ', '(' .. name .. '!')
  local from, to = delivery_history.range(pending[1])
  local known = redis.call('ZRANGEBYLEX', history, from, to)
  if #known >= MAX_KEPT then redis.call('ZREM', history, known[1]) end
  local what = {consumer = pending[2], at = now}
  if reason ~= '' then what.reason = reason end
  redis.call('ZADD', history, 0, name .. ' ' .. cjson.encode(what))
  redis.call('PEXPIRE', history, KEEP_HISTORY)
end

-- Returns {{attempt, consumer, reason, at}, ...}, or nil if there is nothing. What cannot be read is left out.
function delivery_history.read(history, id)
  local from, to = delivery_history.range(id)
  local deliveries = {}
  for _, member in ipairs(redis.call('ZRANGEBYLEX', history, from, to)) do
    local attempt, text = string.match(member, '/(%d+) (.*)$')
    local readable, what = pcall(cjson.decode, text)
    if readable and type(what) == 'table' then
      local delivery = {attempt = tonumber(attempt)}
      for _, name in ipairs({'consumer', 'reason', 'at'}) do
        if type(what[name]) == 'string' or type(what[name]) == 'number' then delivery[name] = what[name] end
      end
      deliveries[#deliveries + 1] = delivery
    end
  end
  return #deliveries > 0 and deliveries or nil
end

