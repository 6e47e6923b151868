-- Leases entries of a consumer group: those whose lease ran out, then those that consumers outside
-- redstreamd left pending, then new ones. Atomic, so that parallel takes are disjoint.
--
-- KEYS  1 the stream  2 its due set  3 its dead-letter stream  4 what became of earlier deliveries
--       5 the record of this take  6 what an earlier sending of this call did  7 the group's record
-- ARGV  1 group  2 consumer  3 count  4 lease in ms  5 idle time in ms after which a pending entry of
--       another program may be taken  6 max_deliveries by the setting (0: never)
--       7 entry ID to create the group at ("": do not create it)  8 "1" to resume what the consumer holds
--       9 how long to keep the record of this take, in ms (0: do not)  10 entry ID at which to go on looking
--       for pending entries of other programs  11 bytes of content after which no further entry is taken
--       12 max_deliveries that the caller asks for ("": none)  13 how long to remember this call, in ms
--       14 to 17 what the daemon knows of the group's clock
-- Returns {now by the group's clock, time of the take, due time of the lease, 1 if replayed from the record,
--          1 if the group was created, {{entry ID, attempt, {field, value, ...}}, ...}, number of
--          dead-lettered entries, next due time by the group's clock or "", where to go on looking, number of
--          entries that the consumer still holds beyond those resumed, length of the lease in ms or "" if that
--          is not known, max_deliveries of this lease's own or "", max_deliveries of the group, name of the
--          group's clock}
--
-- max_deliveries is the group's. What a caller asks for becomes the group's where this call creates it; else it
-- counts only for this call and its lease, and only if it allows more deliveries than the group's.
--
-- Whatever other programs wrote, nothing raises an error once an entry was claimed: the reply, the only one
-- that carries the entry, would be lost.

local stream, due, dead, tried, record = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local call, about = KEYS[6], KEYS[7]
local group, consumer = ARGV[1], ARGV[2]
local count, lease, foreign_idle = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local default, create_at, resume = tonumber(ARGV[6]), ARGV[7], ARGV[8] == '1'
local record_for, look_from, room = tonumber(ARGV[9]), ARGV[10], tonumber(ARGV[11])
local asked, remember_for = ARGV[12], ARGV[13]

-- Pending entries that are read at a time; of those of other programs, the most that one call looks through
-- where new entries may be waiting, and the most where there are too few of these; and the most that
-- resuming looks through.
local PAGE, LOOK_FIRST, LOOK_LAST, LOOK_OWN = 100, 20, 1000, 5000
-- The most pages of what is due that one call looks through, where the first held little but stale members.
local DUE_PAGES = 10
-- The most entries that one call dead-letters, and bytes of content after which it dead-letters no more.
local MOST_LETTERS, LETTER_BYTES = 100, 1048576

local taken, dead_lettered, created, still_held = {}, 0, 0, 0

-- What could be refused is tried before anything is claimed. XREADGROUP is served when memory is full and
-- ZADD is not: without this probe, entries could be delivered and their lease not recorded. XX adds nothing.
redis.call('ZADD', due, 'XX', 0, '')
redis.call('ZADD', tried, 'XX', 0, '')
redis.call('XLEN', dead)
local now = clock.begin(about, due, 14)
-- What the first sending of this call did, if its reply was lost:
-- "<1 if it created the group> <number of dead letters> <number of entries still held>".
local sent_before = record_for > 0 and redis.call('GET', call)
if record_for > 0 then redis.call('SET', call, sent_before or '', 'XX', 'KEEPTTL') end
-- The rights to the other commands that follow a claim, as seldom as the record is written: they seldom change. Each
-- form leaves everything as it is; the key of this call is there only if it is sent again.
if clock.record then
  local refused = group_record.refused(about, '0')
  if refused then return refused end
  redis.call('HEXISTS', about, 'max_deliveries')
  redis.call('PERSIST', call)
  redis.call('PEXPIRE', call, remember_for)
  redis.call('ZREM', due, '')
  redis.call('ZREMRANGEBYLEX', tried, '(', '(')
  redis.call('ZRANGEBYLEX', tried, '(', '(')
  redis.call('ZRANGEBYSCORE', due, '(0', '(0')
end
-- A group that is only waited at costs no write.
if clock.record and redis.call('EXISTS', due) == 1 then clock.keep() end

local function pending(id)
  -- A member of the due set that begins with no entry ID, which somebody else wrote, is nothing to Redis.
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  return not found.err and found[1] or nil
end

-- Not the summary: that one asks every consumer.
local any_pending = redis.pcall('XPENDING', stream, group, '-', '+', 1)
if any_pending.err then
  if create_at == '' or not string.find(any_pending.err, 'NOGROUP', 1, true) then
    return any_pending
  end
  local refused = group_record.refused(about, asked)
  if refused then return refused end
  redis.call('XGROUP', 'CREATE', stream, group, create_at, 'MKSTREAM')
  group_record.begin(about, asked)
  -- The record of an earlier group is gone, and with it how the clocks stood.
  clock.record = about
  created = 1
  any_pending = {}
end

local limit, own = group_record.max_deliveries(about, default), nil
if asked ~= '' and group_record.allows_more(tonumber(asked), limit) then own = tonumber(asked) end
local max_deliveries = own or limit

local said = {}
for number in string.gmatch(sent_before or '0 0 0', '%d+') do said[#said + 1] = tonumber(number) end

local function last_delivered()
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local values = {}
    for index = 1, #flat, 2 do values[flat[index]] = flat[index + 1] end
    if values['name'] == group then return values['last-delivered-id'] end
  end
end

-- A group that was made just now gave out nothing before.
if record_for > 0 and created == 0 then
  local saved = redis.call('GET', record)
  local at = saved and tonumber(string.match(saved, '^(%d+) %d+%-%d+/'))
  if at then
    local earliest, greatest
    for id, attempt in string.gmatch(saved, '(%S+)/(%d+)') do
      if not greatest or beyond(id, greatest) then greatest = id end
      local held = pending(id)
      if held and is_of(held, consumer, tonumber(attempt), at) then
        local entry = redis.call('XRANGE', stream, id, id)[1]
        local due_at, given_back = find_due(due, id .. '/' .. attempt)
        if entry and due_at and not given_back then
          taken[#taken + 1] = {id, held[4], entry[2]}
          earliest = math.min(earliest or due_at, due_at)
        end
      end
    end
    -- A group that is to deliver these entries only now is another than the one that delivered them, or was
    -- set back: then the record says nothing of it.
    if earliest or not beyond(greatest, last_delivered()) then
      return {
        now, at, (earliest or now) - clock.ahead, sent_before and 0 or 1, said[1], taken, said[2], '', look_from,
        said[3], string.match(saved, ' lease=(%d+)') or '', string.match(saved, ' max_deliveries=(%d+)') or '', limit,
        clock.name,
      }
    end
  end
end

local function forget(id)
  redis.call('XACK', stream, group, id)
  delivery_history.forget(tried, id)
end

-- Whether as many entries are taken as are wanted, or as much content as may be: entries that would have to
-- be cut to fit the answer are better taken whole by the next call.
local function enough(wanted)
  return #taken >= wanted or room <= 0
end

local function note_size(entry)
  for _, value in ipairs(entry[2]) do room = room - #value end
end

-- Returns why an entry is not to be delivered again, if so. A counter that is beyond belief would soon be
-- beyond Redis and Lua, too.
local function worn_out(deliveries)
  if deliveries >= MOST_DELIVERIES then
    return 'its delivery counter was set to ' .. MOST_DELIVERIES .. ' or more'
  end
  if max_deliveries > 0 and deliveries >= max_deliveries and not resume then return 'max_deliveries' end
end

local letter_room, refusal = LETTER_BYTES, nil

-- Dead-letters a pending entry; returns false if that was refused.
local function put_aside(held, reason)
  local size, refused = dead_letter(stream, group, dead, tried, held, reason)
  if refused then
    refusal = refused
    return false
  end
  if size then
    dead_lettered = dead_lettered + 1
    letter_room = letter_room - size
  end
  forget(held[1])
  return true
end

-- Takes a pending entry. ended says how the delivery ended that is superseded now; "" if that is noted
-- already. Returns false if the entry stays as it is.
local function claim(held, ended)
  local id, member = held[1], held[1] .. '/' .. held[4]
  local reason = worn_out(held[4])
  if reason and (dead_lettered == MOST_LETTERS or letter_room <= 0) then return false end
  if ended ~= '' then delivery_history.remember(tried, held, ended, server_now) end
  if reason then
    if not put_aside(held, reason) then return false end
    forget_due(due, member)
    return true
  end
  local entry = redis.call('XCLAIM', stream, group, consumer, 0, id)[1]
  forget_due(due, member)
  if not entry then
    forget(id)
    return true
  end
  note_size(entry)
  taken[#taken + 1] = {id, held[4] + 1, entry[2]}
  set_due(due, now + lease, id .. '/' .. held[4] + 1)
  return true
end

-- Takes what the consumer holds, and counts the rest.
local function take_held()
  local from, looked, page = '-', 0, nil
  repeat
    page = redis.call('XPENDING', stream, group, from, '+', PAGE, consumer)
    for _, held in ipairs(page) do
      local _, given_back = find_due(due, held[1] .. '/' .. held[4])
      if not given_back then
        if enough(count) then still_held = still_held + 1 else claim(held, 'resumed') end
      end
    end
    looked = looked + #page
    local last = #page > 0 and page[#page][1]
    from = last and after(last)
  until #page < PAGE or looked >= LOOK_OWN or from == last
end

-- Takes what came due, the consumer's own first, and removes stale members.
local function take_due()
  local function claim_due(held)
    local due_at, given_back = find_due(due, held[1] .. '/' .. held[4])
    -- A member was stale when the page was read, and became that of a lease of this very call.
    if not due_at then return true end
    -- What was given back may be of the next millisecond, and stays in the page.
    if due_at > now then return not given_back end
    return claim(held, given_back and '' or 'lease ran out')
  end
  local others, left, pages, page = {}, 0, 0, nil
  repeat
    -- Up to the next millisecond, since what an earlier release put off has half a one more.
    page = redis.call(
      'ZRANGEBYSCORE', due, '-inf', string.format('(%.0f', now + 1), 'LIMIT', left, count + PAGE)
    pages = pages + 1
    for _, member in ipairs(page) do
      local of = string.sub(member, 1, #MARK) == MARK and string.sub(member, #MARK + 1)
      local id = not of and string.match(member, '^(.+)/%d+$')
      local held = id and pending(id)
      if of then
        -- It went with its entry, or stays with it.
        local _, given_back = find_due(due, of)
        if given_back then left = left + 1 else redis.call('ZREM', due, member) end
      elseif not held or member ~= held[1] .. '/' .. held[4] then
        forget_due(due, member)
        if id and not held then delivery_history.forget(tried, id) end
      elseif held[2] ~= consumer then
        others[#others + 1] = held
        left = left + 1
      elseif enough(count) or not claim_due(held) then
        left = left + 1
      end
    end
  until #page < count + PAGE or enough(count - #others) or pages == DUE_PAGES
  for _, held in ipairs(others) do
    if enough(count) then break end
    claim_due(held)
  end
end

-- Takes entries that other programs left pending until `wanted` are taken, looking through `most` at most,
-- from where the last search ended, and once round. Their idle time is compared here, because XPENDING's own
-- filter walks the whole list where nothing fits.
local function take_foreign(wanted, most)
  local from_start = look_from == '-'
  while most > 0 and not enough(wanted) do
    local size = math.min(most, PAGE)
    local page = redis.call('XPENDING', stream, group, look_from, '+', size)
    most = most - math.max(#page, 1)
    for _, held in ipairs(page) do
      if enough(wanted) then
        look_from = held[1]
        return
      end
      -- What another program released by XNACK, where there is such, is nobody's, with an idle time of -1.
      local idle = held[3] >= foreign_idle or held[3] < 0
      if idle and not find_due(due, held[1] .. '/' .. held[4]) then
        claim(held, 'left pending by another program')
      end
    end
    if #page == size then
      look_from = after(page[#page][1])
    else
      look_from = '-'
      if from_start then break end
      from_start = true
    end
  end
end

-- Takes new entries; returns them apart, because older debts may still come before them.
local function take_new()
  local fresh, claimed = {}, {}
  for _, entry in ipairs(taken) do claimed[entry[1]] = entry end
  while not enough(count - #fresh) do
    -- One at a time, because each may be huge, and what was read is delivered.
    local read = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', 1, 'STREAMS', stream, '>')
    local entry = read and read[1][2][1]
    if not entry then break end
    local again, stale = claimed[entry[1]], nil
    if again then
      -- The group was set back, so what was claimed just now is read again, which counts from 1.
      stale = entry[1] .. '/' .. again[2]
      again[2] = 1
    else
      note_size(entry)
      fresh[#fresh + 1] = {entry[1], 1, entry[2]}
    end
    set_due(due, now + lease, entry[1] .. '/1')
    if stale then forget_due(due, stale) end
  end
  return fresh
end

if resume then
  take_held()
else
  take_due()
  -- A few first, so that new entries never hide them; more where there are too few of these.
  if #any_pending > 0 then take_foreign(count, LOOK_FIRST) end
  local fresh = take_new()
  if #any_pending > 0 then take_foreign(count - #fresh, LOOK_LAST) end
  for _, entry in ipairs(fresh) do
    taken[#taken + 1] = entry
  end
end

if #taken == 0 and dead_lettered == 0 and refusal then return refusal end

local at, next_due = server_now, ''
if #taken == 0 then
  local score = redis.call('ZRANGEBYSCORE', due, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  if score then next_due = math.ceil(tonumber(score)) end
else
  -- Not before the last delivery, by a clock that goes on while a script runs, or was set back meanwhile.
  local time = redis.call('TIME')
  at = math.max(server_now, time[1] * 1000 + math.floor(time[2] / 1000))
end
if #taken > 0 and record_for > 0 then
  local words = {string.format('%.0f', at)}
  for _, entry in ipairs(taken) do
    words[#words + 1] = entry[1] .. '/' .. entry[2]
  end
  words[#words + 1] = 'lease=' .. ARGV[4]
  if own then words[#words + 1] = 'max_deliveries=' .. own end
  redis.call('SET', record, table.concat(words, ' '), 'PX', record_for)
end
created, dead_lettered = math.max(created, said[1]), dead_lettered + said[2]
if record_for > 0 and (#taken > 0 or created + dead_lettered > 0) then
  redis.call('SET', call, table.concat({created, dead_lettered, still_held}, ' '), 'PX', remember_for)
end
return {
  now, at, server_now + lease, 0, created, taken, dead_lettered, next_due, look_from, still_held, lease, own or '', limit,
  clock.name,
}
