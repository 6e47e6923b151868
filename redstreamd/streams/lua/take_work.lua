-- Leases entries of a consumer group: those whose lease ran out, then pending entries of other programs, which have
-- no lease, then new ones. Atomic, so that parallel takes are disjoint.
--
-- KEYS stream due_set dead_letters history take_record former_take_record call_record group_hash
-- ARGV group consumer foreign_idle_ms:int default_max_deliveries:int
-- ARGV create_at resume:bool take_record_ms:int scan_from many_groups:bool
-- ARGV asked_max_deliveries call_record_ms
-- REPLY now:int taken_at:int expires:int replayed:bool group_created:bool entries attempts dead_lettered:int
-- REPLY next_due:int scan_from:text still_held:int lease_ms:int own_limit:int group_limit:int clock_name:text
-- REPLY groups:int largest:int too_many:int consumer:text
--
-- foreign_idle_ms idle time after which a pending entry without a lease may be taken
-- create_at       ID to create the group at; empty: do not create it
-- resume          take what the consumer holds, and nothing else
-- former_take_record the record that this take would have under the former name of the principal
-- take_record_ms  how long to keep the record of this take; 0: do not
-- scan_from       ID at which the scan for pending entries without a lease continues
-- call_record_ms  how long to remember this call
-- many_groups     the stream has many groups; they are not counted again
-- now, next_due   by the group's clock; next_due is the next due time if nothing was taken
-- expires         when the lease ends, by the server's clock
-- replayed        the answer comes from the record of the take
-- entries         {entry ID, {name, value, ...}}; of a take that fits, as JSON in one text
-- attempts        of each entry
-- still_held      entries that the consumer holds beyond those resumed
-- lease_ms        length of the lease, if known
-- own_limit       max_deliveries of this lease only
-- groups          how many groups the stream has, if that was asked
-- too_many        the same, if the group was not created because of it
-- largest         bytes of content of the largest entry taken
-- consumer        who took them, as Redis calls it
--
-- asked_max_deliveries (empty: none) becomes the group's limit if this call creates the group. Otherwise it applies
-- to this call and its lease, and only if it allows more deliveries than the group's.
--
-- Nothing may raise an error after an entry was claimed, whatever other programs wrote: the reply, the only one that
-- carries the entry, would be lost.

-- Pending entries read at a time. Entries scanned for those without a lease, while new entries may be waiting and
-- then; and entries scanned to resume.
local PAGE, FIRST_SCAN, LAST_SCAN, RESUME_SCAN = 100, 20, 1000, 5000
-- Pending entries of a group up to which Redis may compare all their idle times in one command.
local FEW_PENDING = 500
-- Groups of a stream up to which a take asks about all of them.
local FEW_GROUPS = 8
-- Pages of due members that one call reads, where the first hold mostly stale members.
local MAX_DUE_PAGES = 10
-- Entries that one call dead-letters, and bytes of content after which it dead-letters no more.
local MAX_DEAD_LETTERS, MAX_DEAD_LETTER_BYTES = 100, 1048576
-- Bytes of content up to which entries are encoded.
local MAX_ENCODED = 1048576

local taken, attempts, dead_lettered, created, still_held = {}, {}, 0, 0, 0

-- Try what Redis may refuse before anything is claimed. With full memory XREADGROUP is served and ZADD is not: entries
-- could be delivered without a lease. XX adds nothing.
redis.call('ZADD', due_set, 'XX', 0, '')
local now = clock.begin(group_hash, due_set)
-- What the first sending of this call did, if its reply was lost:
-- "<1 if it created the group> <number of dead letters> <number of entries still held>".
local sent_before = take_record_ms > 0 and redis.call('GET', call_record)
if take_record_ms > 0 then redis.call('SET', call_record, sent_before or '', 'XX', 'KEEPTTL') end
-- The rights to the other commands that follow a claim are tried only when the clock is saved, since they seldom
-- change. Each command leaves everything as it is; the record of this call exists only if it is sent again.
if clock.unsaved then
  local refused = group_record.refused(group_hash, '0')
  if refused then return refused end
  redis.call('HEXISTS', group_hash, 'max_deliveries')
  redis.call('PERSIST', call_record)
  redis.call('PEXPIRE', call_record, call_record_ms)
  redis.call('ZREM', due_set, '')
  redis.call('ZREMRANGEBYLEX', history, '(', '(')
  redis.call('ZRANGEBYLEX', history, '(', '(')
  redis.call('ZRANGEBYSCORE', due_set, '(0', '(0')
end
-- Waiting for a group without due times writes nothing.
if clock.unsaved and redis.call('EXISTS', due_set) == 1 then clock.save() end

local function find_pending(id)
  -- Redis refuses what is no entry ID; another program may have written such a member.
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  return not found.err and found[1] or nil
end

-- Returns what XINFO GROUPS says of the group; nil if there are many groups, if Redis refuses, or without the group.
-- And the number of groups.
local function group_info()
  local too_many = too_many_groups(stream, FEW_GROUPS)
  if too_many then return nil, too_many end
  local found = redis.pcall('XINFO', 'GROUPS', stream) -- optional
  if found.err then return nil end
  for _, flat in ipairs(found) do
    if flat[2] == group then return map(flat), #found end
  end
end

local info, groups
if not many_groups then info, groups = group_info() end
-- How many entries are pending, if few. Otherwise only whether there are any; not by the summary of XPENDING, which
-- asks each consumer.
local few_pending = info and info['pending'] <= FEW_PENDING
local has_pending = info and info['pending'] > 0
local first_pending = not info and redis.pcall('XPENDING', stream, group, '-', '+', 1)
if first_pending and first_pending.err then
  if create_at == '' or not string.find(first_pending.err, 'NOGROUP', 1, true) then
    return first_pending
  end
  if count_groups(stream) >= max_groups then return reply({too_many = count_groups(stream)}) end
  local refused = group_record.refused(group_hash, asked_max_deliveries)
  if refused then return refused end
  redis.call('XGROUP', 'CREATE', stream, group, create_at, 'MKSTREAM')
  group_record.begin(group_hash, asked_max_deliveries)
  -- The hash of an earlier group is gone, and with it the record of the clock.
  clock.unsaved = group_hash
  created = 1
elseif first_pending then
  has_pending = #first_pending > 0
end

local unrecorded
consumer, unrecorded = consumer_owner.find(group_hash, consumer)

local group_limit, own_limit = limit_of_group(group_hash, default_max_deliveries), nil
if asked_max_deliveries ~= '' and group_record.allows_more(tonumber(asked_max_deliveries), group_limit) then
  own_limit = tonumber(asked_max_deliveries)
end
local max_deliveries = own_limit or group_limit

local did_before = {0, 0, 0}
if sent_before and sent_before ~= '' then
  did_before = {}
  for number in string.gmatch(sent_before, '%d+') do did_before[#did_before + 1] = tonumber(number) end
end

-- A group that was just created has delivered nothing before.
if take_record_ms > 0 and created == 0 then
  -- Whether the group has delivered an entry, or is set behind it. With too many groups it is taken to have: then a
  -- take with an idempotency key that took entries before takes none, rather than others.
  local function has_passed(id)
    for _, flat in ipairs(groups_up_to(stream, max_groups) or {}) do
      local values = map(flat)
      if values['name'] == group then return not beyond(id, values['last-delivered-id']) end
    end
    return true
  end

  local saved = redis.call('GET', take_record)
  if not saved and former ~= '' then saved = redis.call('GET', former_take_record) end
  local at = saved and tonumber(string.match(saved, '^(%d+) %d+%-%d+/'))
  if at then
    local earliest, greatest
    for id, attempt in string.gmatch(saved, '(%S+)/(%d+)') do
      if not greatest or beyond(id, greatest) then greatest = id end
      local pending = find_pending(id)
      if pending and is_same_delivery(pending, consumer, tonumber(attempt), at) then
        local entry = redis.call('XRANGE', stream, id, id)[1]
        local due_at, returned = find_due(due_set, id .. '/' .. attempt)
        if entry and due_at and not returned then
          taken[#taken + 1], attempts[#attempts + 1] = entry, pending[4]
          earliest = math.min(earliest or due_at, due_at)
        end
      end
    end
    -- If the group has yet to deliver these entries, it is another group than at the take, or was set back: the
    -- record does not apply to it.
    if earliest or has_passed(greatest) then
      return reply({
        now = now, taken_at = at, expires = (earliest or now) - clock.ahead, replayed = not sent_before,
        group_created = did_before[1] == 1, entries = taken, attempts = attempts, dead_lettered = did_before[2],
        scan_from = scan_from, still_held = did_before[3], lease_ms = string.match(saved, ' lease=(%d+)'),
        own_limit = string.match(saved, ' max_deliveries=(%d+)'), group_limit = group_limit,
        clock_name = clock.name, consumer = consumer,
      })
    end
  end
end

-- Whether as many entries are taken as are wanted, or as much content as may be. Entries that would have to be
-- truncated are better taken whole by the next call.
local function enough(wanted)
  return #taken >= wanted or bytes_left <= 0
end

local refusal

-- Returns the functions that take pending entries. Lua makes each anew in each run, which takes as long as some
-- commands, and mostly nothing is pending.
local function for_pending()
  -- Nothing was claimed yet; see above.
  redis.call('ZADD', history, 'XX', 0, '')
  redis.call('XLEN', dead_letters)

  local function acknowledge(id)
    redis.call('XACK', stream, group, id)
    delivery_history.remove(history, id)
  end

  -- Returns why an entry is not to be delivered again; nil if it is. A counter beyond COUNTER_LIMIT would soon be
  -- beyond what Redis and Lua can count.
  local function dead_letter_reason(deliveries)
    if deliveries >= COUNTER_LIMIT then
      return 'its delivery counter was set to ' .. COUNTER_LIMIT .. ' or more'
    end
    if max_deliveries > 0 and deliveries >= max_deliveries and not resume then return 'max_deliveries' end
  end

  local dead_letter_bytes_left = MAX_DEAD_LETTER_BYTES

  -- Dead-letters a pending entry; returns false if Redis refused that.
  local function dead_letter(pending, reason)
    local size, refused = add_dead_letter(stream, group, dead_letters, history, pending, reason)
    if refused then
      refusal = refused
      return false
    end
    if size then
      dead_lettered = dead_lettered + 1
      dead_letter_bytes_left = dead_letter_bytes_left - size
    end
    acknowledge(pending[1])
    return true
  end

  -- Takes a pending entry. `ended` says how its last delivery ended; '' if that is recorded already. Returns false if
  -- the entry stays as it is.
  local function claim(pending, ended)
    local id, member = pending[1], pending[1] .. '/' .. pending[4]
    local reason = dead_letter_reason(pending[4])
    if reason and (dead_lettered == MAX_DEAD_LETTERS or dead_letter_bytes_left <= 0) then return false end
    if ended ~= '' then delivery_history.add(history, pending, ended, server_now) end
    if reason then
      if not dead_letter(pending, reason) then return false end
      remove_due(due_set, member)
      return true
    end
    local entry = redis.call('XCLAIM', stream, group, consumer, 0, id)[1]
    remove_due(due_set, member)
    if not entry then
      acknowledge(id)
      return true
    end
    count_bytes(entry)
    taken[#taken + 1], attempts[#attempts + 1] = entry, pending[4] + 1
    set_due(due_set, now + lease_ms, id .. '/' .. pending[4] + 1)
    return true
  end

  -- Takes what the consumer holds, and counts the rest.
  local function take_held()
    local from, scanned, page = '-', 0, nil
    repeat
      page = redis.call('XPENDING', stream, group, from, '+', PAGE, consumer)
      for _, pending in ipairs(page) do
        local _, returned = find_due(due_set, pending[1] .. '/' .. pending[4])
        if not returned then
          if enough(count) then still_held = still_held + 1 else claim(pending, 'resumed') end
        end
      end
      scanned = scanned + #page
      local last = #page > 0 and page[#page][1]
      from = last and after(last)
    until #page < PAGE or scanned >= RESUME_SCAN or from == last
  end

  -- Takes what is due, the consumer's own first, and removes stale members.
  local function take_due()
    local function claim_due(pending)
      local due_at, returned = find_due(due_set, pending[1] .. '/' .. pending[4])
      -- A member was stale when the page was read, and now belongs to a lease of this call.
      if not due_at then return true end
      -- A returned entry may be due in the next millisecond, and stays in the page.
      if due_at > now then return not returned end
      return claim(pending, returned and '' or 'lease ran out')
    end
    local others, skipped, pages, page = {}, 0, 0, nil
    repeat
      -- Up to the next millisecond, since what a release up to 0.1 returned has half a ms more.
      page = redis.call(
        'ZRANGEBYSCORE', due_set, '-inf', string.format('(%.0f', now + 1), 'LIMIT', skipped, count + PAGE)
      pages = pages + 1
      for _, member in ipairs(page) do
        local marked = string.sub(member, 1, #MARK) == MARK and string.sub(member, #MARK + 1)
        local id = not marked and string.match(member, '^(.+)/%d+$')
        local pending = id and find_pending(id)
        if marked then
          -- It was removed with its entry, or stays with it.
          local _, returned = find_due(due_set, marked)
          if returned then skipped = skipped + 1 else redis.call('ZREM', due_set, member) end
        elseif not pending or member ~= pending[1] .. '/' .. pending[4] then
          remove_due(due_set, member)
          if id and not pending then delivery_history.remove(history, id) end
        elseif pending[2] ~= consumer then
          others[#others + 1] = pending
          skipped = skipped + 1
        elseif enough(count) or not claim_due(pending) then
          skipped = skipped + 1
        end
      end
    until #page < count + PAGE or enough(count - #others) or pages == MAX_DUE_PAGES
    for _, pending in ipairs(others) do
      if enough(count) then break end
      claim_due(pending)
    end
  end

  -- Takes pending entries without a lease until `wanted` are taken. Scans at most max_scanned, from where the last scan
  -- ended, and once round. Compares idle times here where many are pending, because XPENDING's own filter scans the
  -- whole list if nothing matches.
  local function take_unleased(wanted, max_scanned)
    local from_start = scan_from == '-'
    while max_scanned > 0 and not enough(wanted) do
      local size = math.min(max_scanned, PAGE)
      local page
      if few_pending then
        page = redis.call('XPENDING', stream, group, 'IDLE', foreign_idle_ms, scan_from, '+', size)
      else
        page = redis.call('XPENDING', stream, group, scan_from, '+', size)
      end
      max_scanned = max_scanned - math.max(#page, 1)
      for _, pending in ipairs(page) do
        if enough(wanted) then
          scan_from = pending[1]
          return
        end
        -- An entry that XNACK released has an idle time of -1, and nobody holds it.
        local idle = pending[3] >= foreign_idle_ms or pending[3] < 0
        if idle and not find_due(due_set, pending[1] .. '/' .. pending[4]) then
          claim(pending, 'left pending by another program')
        end
      end
      if #page == size then
        scan_from = after(page[#page][1])
      else
        scan_from = '-'
        if from_start then break end
        from_start = true
      end
    end
  end

  return {held = take_held, due = take_due, unleased = take_unleased}
end

-- Takes new entries; returns them apart, because more pending ones may come before them.
local function take_new()
  local claimed = #taken > 0 and {}
  for index = 1, #taken do claimed[taken[index][1]] = index end
  local new, due = read_new(stream, group, consumer, count - #taken, 1, now + lease_ms, claimed, info)
  if not new then return nil, due end
  if #due > 0 then set_all_due(due_set, due) end
  for index = claimed and #new or 0, 1, -1 do
    local id = new[index][1]
    local again = claimed[id]
    if again then
      -- The group was set back, so an entry that was just claimed is read again, which counts from 1.
      set_due(due_set, now + lease_ms, id .. '/1')
      remove_due(due_set, id .. '/' .. attempts[again])
      attempts[again] = 1
      table.remove(new, index)
    end
  end
  return new
end

if resume then
  for_pending().held()
else
  local take = has_pending and for_pending()
  if take then
    take.due()
    -- A short scan first, so that new entries never hide those without a lease; a long one where too little is new.
    take.unleased(count, FIRST_SCAN)
  end
  local new, refused = take_new()
  if not new then
    if #taken == 0 and dead_lettered == 0 then return refused end
    new = {}
  end
  if take then
    take.unleased(count - #new, LAST_SCAN)
  elseif #new == 0 then
    -- Due times of what is not pending any more would be the next ones.
    for_pending().due()
  end
  for index = 1, #new do taken[#taken + 1], attempts[#attempts + 1] = new[index], 1 end
end

if #taken == 0 and dead_lettered == 0 and refusal then return refusal end
if #taken > 0 and unrecorded then consumer_owner.record(group_hash, unrecorded) end

local at, next_due = server_now, nil
if #taken == 0 then
  local score = redis.call('ZRANGEBYSCORE', due_set, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  if score then next_due = math.ceil(tonumber(score)) end
else
  -- Not before the last delivery. Its clock goes on while a script runs, and may have been set back meanwhile.
  local time = redis.call('TIME')
  at = math.max(server_now, time[1] * 1000 + math.floor(time[2] / 1000))
end
if #taken > 0 and take_record_ms > 0 then
  local words = {string.format('%.0f', at)}
  for index = 1, #taken do words[#words + 1] = taken[index][1] .. '/' .. attempts[index] end
  words[#words + 1] = string.format('lease=%.0f', lease_ms)
  if own_limit then words[#words + 1] = 'max_deliveries=' .. own_limit end
  redis.call('SET', take_record, table.concat(words, ' '), 'PX', take_record_ms)
end
-- As in read_page.lua.
local entries = taken
if #taken > 0 and bytes_left > 0 and max_bytes <= MAX_ENCODED then entries = cjson.encode(taken) end
created, dead_lettered = math.max(created, did_before[1]), dead_lettered + did_before[2]
if take_record_ms > 0 and (#taken > 0 or created + dead_lettered > 0) then
  redis.call('SET', call_record, table.concat({created, dead_lettered, still_held}, ' '), 'PX', call_record_ms)
end
return reply({
  now = now, taken_at = at, expires = server_now + lease_ms, group_created = created == 1,
  entries = entries, attempts = attempts,
  dead_lettered = dead_lettered, next_due = next_due, scan_from = scan_from, still_held = still_held,
  lease_ms = lease_ms, own_limit = own_limit, group_limit = group_limit, clock_name = clock.name, groups = groups,
  largest = largest, consumer = consumer,
})
