-- Ends or renews leases: deletes entries, extends their leases, delays them or dead-letters them. Atomic, and fenced:
-- an entry that another attempt owns is left alone. For acknowledging alone there is finish.lua.
--
-- KEYS stream due_set dead_letters history call_record group_hash
-- ARGV group consumer action delay_ms:int reason
-- ARGV brief_reason own_limit:int taken_at:int default_max_deliveries:int call_record_ms:int attempts...
-- REPLY outcomes due:int kept_for:text shortened:int now:int clock_name:text too_many:int
--
-- action         done | extend | hold | retry | dead. done deletes what it acknowledges, unless another group needs
--                it; hold extends a lease that would end earlier
-- delay_ms       for extend and hold the new length of the lease, for retry the delay
-- reason         for dead and retry
-- brief_reason   what the history keeps of it
-- own_limit      max_deliveries of the lease; empty: the group's counts
-- taken_at       time of the take
-- call_record_ms how long to remember this call; 0: do not
-- attempts       pairs of entry ID and attempt
-- outcomes       for each pair: done | extended | retried | dead | already | lost | gone
-- due            the latest due time of what was extended or delayed
-- kept_for       a group for which entries were not deleted; none for what was deleted before
-- too_many       how many groups the stream has, if nothing was deleted because of it; then kept_for has no name
-- shortened      leases that end earlier than before
-- now            by the group's clock, if it was used
-- Raises NOGROUP if the group does not exist (any more).
--
-- A retry is dead-lettered instead after as many deliveries as the group allows, or as own_limit does if that
-- allows more.
--
-- What this attempt delayed is settled: repeating that changes nothing, and any other action comes too late.

-- If a reply was lost and this call is sent again, its answer is that of the first sending.
local sent_before = call_record_ms > 0 and redis.call('GET', call_record)
if sent_before then return cjson.decode(sent_before) end

-- Nothing that is finished or dead-lettered has a due time.
local now = action ~= 'done' and action ~= 'dead' and clock.begin(group_hash, due_set)

-- Try what Redis may refuse before anything is settled. Work can be finished with full memory, so not for that.
if action == 'retry' or action == 'dead' then
  redis.call('ZADD', due_set, 'XX', 0, '')
  redis.call('ZADD', history, 'XX', 0, '')
  redis.call('XLEN', dead_letters)
end

local max_deliveries = 0
if action == 'retry' then
  max_deliveries = limit_of_group(group_hash, default_max_deliveries)
  if own_limit and group_record.allows_more(own_limit, max_deliveries) then max_deliveries = own_limit end
end

local has_history = redis.call('EXISTS', history) == 1
local latest, kept_for, shortened, refusal = nil, nil, 0, nil

local function acknowledge(id, member)
  redis.call('XACK', stream, group, id)
  if has_history then
    remove_due(due_set, member)
    delivery_history.remove(history, id)
  else
    redis.call('ZREM', due_set, member)
  end
end

local others, too_many = {}, nil
if action == 'done' and redis.call('EXISTS', stream) == 1 then
  local groups, number = groups_up_to(stream, max_groups)
  if not groups then too_many = number end
  for _, flat in ipairs(groups or {}) do
    local values = map(flat)
    if values['name'] ~= group then others[#others + 1] = values end
  end
end

-- Looks for single entries in the pending entries lists of other groups: of one call. Then what would have to be
-- looked for counts as needed.
local lookups_left = 2000

-- Returns another group that has not read or not finished the entry, if there is one.
local function needed_by(id)
  for _, other in ipairs(others) do
    if beyond(id, other['last-delivered-id']) then return other['name'] end
    if other['pending'] > 0 then
      lookups_left = lookups_left - 1
      if lookups_left < 0 or #redis.call('XPENDING', stream, other['name'], id, id, 1) > 0 then
        return other['name']
      end
    end
  end
end

-- Returns whether an entry that was just acknowledged is in the stream. XRANGE would copy it, however large it is; this
-- makes it pending again only if there is such an entry.
local function exists(id)
  local claimed = redis.pcall('XCLAIM', stream, group, consumer, 0, id, 'FORCE', 'JUSTID') -- optional
  redis.call('XACK', stream, group, id)
  return claimed.err ~= nil or #claimed > 0
end

local function dead_letter(id, pending, member)
  local why = reason == '' and 'max_deliveries' or reason
  local size, refused = add_dead_letter(stream, group, dead_letters, history, pending, why)
  if refused then
    refusal = refused
    return 'lost'
  end
  acknowledge(id, member)
  -- A deleted entry has nothing left to do, and makes no dead letter.
  return size and 'dead' or 'already'
end

local function extend(id, pending, member, due_at)
  if due_at and due_at > now + delay_ms then shortened = shortened + 1 end
  set_due(due_set, now + delay_ms, member)
  latest = math.max(latest or 0, now + delay_ms)
  return 'extended'
end

local actions = {
  done = function(id, pending, member)
    acknowledge(id, member)
    local other = too_many and '' or needed_by(id)
    if not other then
      redis.call('XDEL', stream, id)
    elseif not kept_for and exists(id) then
      kept_for = other
    end
    return 'done'
  end,
  extend = extend,
  hold = function(id, pending, member, due_at)
    if due_at and due_at >= now + delay_ms then
      latest = math.max(latest or 0, due_at)
      return 'extended'
    end
    return extend(id, pending, member, due_at)
  end,
  retry = function(id, pending, member)
    if max_deliveries > 0 and pending[4] >= max_deliveries then return dead_letter(id, pending, member) end
    set_due(due_set, now + delay_ms, member, true)
    latest = math.max(latest or 0, now + delay_ms)
    delivery_history.add(history, pending, brief_reason, server_now)
    return 'retried'
  end,
  dead = dead_letter,
}

-- The entries of a lease mostly follow each other, so that one question finds all of them. What it does not find is
-- asked for alone.
local found = {}
if #ARGV > attempts + 1 then
  local most = (#ARGV - attempts + 1) / 2
  for _, pending in ipairs(redis.call('XPENDING', stream, group, ARGV[attempts], ARGV[#ARGV - 1], most)) do
    found[pending[1]] = pending
  end
end

local outcomes = {}
for index = attempts, #ARGV, 2 do
  local id, attempt = ARGV[index], tonumber(ARGV[index + 1])
  local member = id .. '/' .. ARGV[index + 1]
  local pending = found[id] or redis.call('XPENDING', stream, group, id, id, 1)[1]
  local outcome
  if not pending then
    if is_taken_out(stream, group, consumer, due_set, member) then
      outcome = 'gone'
    else
      remove_due(due_set, member)
      outcome = 'already'
    end
    if has_history then delivery_history.remove(history, id) end
  elseif not is_same_delivery(pending, consumer, attempt, taken_at) then
    outcome = 'lost'
  else
    local due_at, returned
    -- Without any history no holder returned an entry.
    if has_history or action == 'hold' or action == 'extend' then due_at, returned = find_due(due_set, member) end
    if not returned then
      outcome = actions[action](id, pending, member, due_at)
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
local answer = reply({
  outcomes = outcomes, due = latest and string.format('%.0f', latest - clock.ahead), kept_for = kept_for,
  shortened = shortened, now = now, clock_name = clock.name, too_many = kept_for and too_many,
})
if call_record_ms > 0 then redis.call('SET', call_record, cjson.encode(answer), 'PX', call_record_ms) end
return answer
