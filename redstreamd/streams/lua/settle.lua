-- Ends or renews leases: acknowledges entries, extends their lease, puts them off or dead-letters them.
-- Atomic per call, and fenced: an entry that another attempt owns by now is left alone.
--
-- KEYS  1 the stream  2 its due set  3 its dead-letter stream  4 what became of earlier deliveries
--       5 what an earlier sending of this call did  6 the group's record
-- ARGV  1 group  2 consumer  3 done | extend | hold | retry | dead; hold extends what would end earlier
--       4 for extend and hold the lease, for retry the delay, in ms  5 for dead and retry the reason
--       6 for done "1" to delete the entries that no other group needs, too
--       7 max_deliveries of the lease's own ("": none)  8 time of the take in ms  9 max_deliveries by the setting
--       10 how long to remember this call, in ms (0: do not)
--       11 to 14 what the daemon knows of the group's clock
--       then pairs of entry ID and attempt
-- Returns {{for each pair: done | extended | retried | dead | already | lost}, the latest time at which
--          something extended or retried comes due or "", a group for which entries were not deleted or "",
--          number of entries whose lease ends earlier than it would have, now by the group's clock or "" if
--          it was not needed, name of that clock}
-- Errors with NOGROUP if the group does not exist (any more).
--
-- A retry after as many deliveries as the group allows, or as the lease's own limit does if that allows more, is
-- dead-lettered instead.
--
-- What this attempt put off is settled: repeating that changes nothing, and anything else comes too late.

local stream, due, dead, tried = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local call, about = KEYS[5], KEYS[6]
local group, consumer, action = ARGV[1], ARGV[2], ARGV[3]
local delay, reason, delete, own = tonumber(ARGV[4]), ARGV[5], ARGV[6] == '1', tonumber(ARGV[7])
local taken_at, default, remember_for = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])

-- If a reply was lost and this call is sent again, its answer is that of the first sending.
local sent_before = remember_for > 0 and redis.call('GET', call)
if sent_before then return cjson.decode(sent_before) end

-- Nothing that is finished or dead-lettered has a due time.
local now = action ~= 'done' and action ~= 'dead' and clock.begin(about, due, 11)

-- What could be refused is tried before anything is settled; but work can be finished when memory is full.
if action == 'retry' or action == 'dead' then
  redis.call('ZADD', due, 'XX', 0, '')
  redis.call('ZADD', tried, 'XX', 0, '')
  redis.call('XLEN', dead)
end

local max_deliveries = 0
if action == 'retry' then
  max_deliveries = group_record.max_deliveries(about, default)
  if own and group_record.allows_more(own, max_deliveries) then max_deliveries = own end
end

local failed_before = redis.call('EXISTS', tried) == 1
local latest, kept_for, shortened, refusal = nil, '', 0, nil

local function acknowledge(id, member)
  redis.call('XACK', stream, group, id)
  if failed_before then
    forget_due(due, member)
    delivery_history.forget(tried, id)
  else
    redis.call('ZREM', due, member)
  end
end

local others = {}
if delete and redis.call('EXISTS', stream) == 1 then
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local values = {}
    for index = 1, #flat, 2 do values[flat[index]] = flat[index + 1] end
    if values['name'] ~= group then others[#others + 1] = values end
  end
end

-- Returns a group that did not get the entry or did not finish it, if there is one.
local function needed_by(id)
  for _, other in ipairs(others) do
    if beyond(id, other['last-delivered-id']) then return other['name'] end
    if #redis.call('XPENDING', stream, other['name'], id, id, 1) > 0 then return other['name'] end
  end
end

local function dead_letter_entry(id, held, member)
  local size, refused = dead_letter(stream, group, dead, tried, held, reason == '' and 'max_deliveries' or reason)
  if refused then
    refusal = refused
    return 'lost'
  end
  acknowledge(id, member)
  -- Without content there was nothing left to do, and there is no dead letter.
  return size and 'dead' or 'already'
end

local function extend(id, held, member, due_at)
  if due_at and due_at > now + delay then shortened = shortened + 1 end
  set_due(due, now + delay, member)
  latest = math.max(latest or 0, now + delay)
  return 'extended'
end

local actions = {
  done = function(id, held, member)
    acknowledge(id, member)
    if delete then
      local needs = needed_by(id)
      if needs then kept_for = needs else redis.call('XDEL', stream, id) end
    end
    return 'done'
  end,
  extend = extend,
  hold = function(id, held, member, due_at)
    if due_at and due_at >= now + delay then
      latest = math.max(latest or 0, due_at)
      return 'extended'
    end
    return extend(id, held, member, due_at)
  end,
  retry = function(id, held, member)
    if max_deliveries > 0 and held[4] >= max_deliveries then
      return dead_letter_entry(id, held, member)
    end
    set_due(due, now + delay, member, true)
    latest = math.max(latest or 0, now + delay)
    delivery_history.remember(tried, held, reason, server_now)
    return 'retried'
  end,
  dead = dead_letter_entry,
}

local outcomes = {}
for index = 15, #ARGV, 2 do
  local id, attempt = ARGV[index], tonumber(ARGV[index + 1])
  local member = id .. '/' .. ARGV[index + 1]
  local held = redis.call('XPENDING', stream, group, id, id, 1)[1]
  local outcome
  if not held then
    forget_due(due, member)
    if failed_before then delivery_history.forget(tried, id) end
    outcome = 'already'
  elseif not is_of(held, consumer, attempt, taken_at) then
    outcome = 'lost'
  else
    local due_at, given_back
    -- Where nothing ever failed, nothing was given back by its holder.
    if failed_before or action == 'hold' or action == 'extend' then due_at, given_back = find_due(due, member) end
    if not given_back then
      outcome = actions[action](id, held, member, due_at)
    elseif action == 'retry' then
      latest = math.max(latest or 0, due_at)
      outcome = 'retried'
    else
      outcome = 'already'
    end
  end
  if refusal then return refusal end
  outcomes[#outcomes + 1] = outcome
end
local answer = {
  outcomes, latest and string.format('%.0f', latest - clock.ahead) or '', kept_for, shortened, now or '',
  clock.name or '',
}
if remember_for > 0 then redis.call('SET', call, cjson.encode(answer), 'PX', remember_for) end
return answer
