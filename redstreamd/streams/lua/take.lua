-- Leases entries of a consumer group: those whose lease ran out, then those that consumers outside
-- redstreamd left pending, then new ones. Atomic, so that parallel takes are disjoint.
--
-- KEYS  1 the stream  2 its due set  3 its dead-letter stream  4 what became of earlier deliveries
--       5 the record of this take
-- ARGV  1 group  2 consumer  3 count  4 lease in ms  5 idle time in ms after which a pending entry of
--       another program may be taken  6 deliveries after which an entry is dead-lettered (0: never)
--       7 entry ID to create the group at ("": do not create it)  8 "1" to resume what the consumer holds
--       9 how long to keep the record of this take, in ms (0: do not)  10 where to go on looking for
--       pending entries of other programs  11 bytes of content after which no further entry is taken
-- Returns {now, due time of the lease, 1 if replayed from the record, 1 if the group was created,
--          {{entry ID, attempt, {field, value, ...}}, ...}, number of dead-lettered entries,
--          next due time or "", where to go on looking}
--
-- The due set maps "<entry ID>/<attempt>" to the server's time in ms at which the entry may be taken
-- again. The attempt is the delivery counter of the pending entries list: whoever else claims the
-- entry changes it, which makes our member stale. Stale members do no harm and go when they come due.
-- A due time with a half (x.5) is a retry that work_fail put off: nobody holds that entry.

local stream, due, dead, tried, record = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, consumer = ARGV[1], ARGV[2]
local count, lease, foreign_idle = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local max_deliveries, create_at, resume = tonumber(ARGV[6]), ARGV[7], ARGV[8] == '1'
local record_for, look_from, room = tonumber(ARGV[9]), ARGV[10], tonumber(ARGV[11])

-- The most pending entries of other programs that one call looks through, a page at a time.
local FOREIGN_PAGE, FOREIGN_PAGES = 100, 10

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local taken, dead_lettered, created = {}, 0, 0

-- XREADGROUP is served when memory is full and ZADD is not: without this probe, entries could be
-- delivered and their lease not recorded. XX adds nothing.
redis.call('ZADD', due, 'XX', 0, '')

local function pending(id)
  return redis.call('XPENDING', stream, group, id, id, 1)[1]
end

local summary = redis.pcall('XPENDING', stream, group)
if summary.err then
  if create_at == '' or not string.find(summary.err, 'NOGROUP', 1, true) then
    return summary
  end
  redis.call('XGROUP', 'CREATE', stream, group, create_at, 'MKSTREAM')
  created = 1
  summary = {0}
end

-- A group that was made just now gave out nothing before.
if record_for > 0 and created == 0 then
  local saved = redis.call('GET', record)
  if saved then
    local earliest = 0
    for id, attempt in string.gmatch(saved, '(%S+)/(%d+)') do
      local held = pending(id)
      if held and held[2] == consumer and held[4] == tonumber(attempt) then
        local entry = redis.call('XRANGE', stream, id, id)[1]
        local score = redis.call('ZSCORE', due, id .. '/' .. attempt)
        if entry and score and tonumber(score) % 1 == 0 then
          taken[#taken + 1] = {id, held[4], entry[2]}
          if earliest == 0 or tonumber(score) < earliest then
            earliest = tonumber(score)
          end
        end
      end
    end
    return {now, math.floor(earliest), 1, 0, taken, 0, '', look_from}
  end
end

local function forget(id)
  redis.call('XACK', stream, group, id)
  tries.forget(tried, id)
end

-- Whether as many entries are taken as are wanted, or as much content as may be: entries that would have to
-- be cut to fit the answer are better taken whole by the next call.
local function enough(wanted)
  return #taken >= wanted or room <= 0
end

local function note_size(entry)
  for _, value in ipairs(entry[2]) do room = room - #value end
end

-- ended says how the delivery ended that is superseded now; "" if that is noted already.
local function claim(id, held, ended)
  if ended ~= '' then tries.remember(tried, held, ended, now) end
  if max_deliveries > 0 and held[4] >= max_deliveries and not resume then
    if bury(stream, group, dead, tried, held, 'max_deliveries') then
      dead_lettered = dead_lettered + 1
    end
    return forget(id)
  end
  local entry = redis.call('XCLAIM', stream, group, consumer, 0, id)[1]
  if not entry then
    return forget(id)
  end
  note_size(entry)
  taken[#taken + 1] = {id, held[4] + 1, entry[2]}
  redis.call('ZADD', due, now + lease, id .. '/' .. held[4] + 1)
end

if resume then
  for _, held in ipairs(redis.call('XPENDING', stream, group, '-', '+', 1000, consumer)) do
    if enough(count) then break end
    local member = held[1] .. '/' .. held[4]
    local score = redis.call('ZSCORE', due, member)
    if not score or tonumber(score) % 1 == 0 then
      redis.call('ZREM', due, member)
      claim(held[1], held, 'resumed')
    end
  end
else
  local others = {}
  local function claim_due(member, id, held)
    local put_off = tonumber(redis.call('ZSCORE', due, member)) % 1 ~= 0
    redis.call('ZREM', due, member)
    claim(id, held, put_off and '' or 'lease ran out')
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, count + 100)) do
    local id, attempt = string.match(member, '^(.+)/(%d+)$')
    local held = id and pending(id)
    if not held or held[4] ~= tonumber(attempt) then
      redis.call('ZREM', due, member)
      if id and not held then tries.forget(tried, id) end
    elseif held[2] ~= consumer then
      others[#others + 1] = {member, id, held}
    elseif not enough(count) then
      claim_due(member, id, held)
    end
  end
  for _, other in ipairs(others) do
    if enough(count) then break end
    claim_due(other[1], other[2], other[3])
  end

  -- Entries that other programs left pending. The search goes on where the last one ended, and once
  -- round; it stops when `wanted` entries are taken.
  local function take_foreign(wanted)
    local page, from_start = 0, look_from == '-'
    while not enough(wanted) and page < FOREIGN_PAGES do
      page = page + 1
      local idle = redis.call('XPENDING', stream, group, 'IDLE', foreign_idle, look_from, '+', FOREIGN_PAGE)
      for _, held in ipairs(idle) do
        if enough(wanted) then break end
        if not redis.call('ZSCORE', due, held[1] .. '/' .. held[4]) then
          claim(held[1], held, 'left pending by another program')
        end
        look_from = '(' .. held[1]
      end
      if #idle < FOREIGN_PAGE and not enough(wanted) then
        look_from = '-'
        if from_start then break end
        from_start = true
      end
    end
  end

  -- If more is pending than we know of, there are such entries, and they come before new ones. If not,
  -- stale members may hide them: then it is worth a search only where nothing else is left to take.
  local known = redis.call('ZCARD', due)
  if summary[1] > known then
    take_foreign(count)
  end
  local fresh = {}
  local claimed = {}
  for _, entry in ipairs(taken) do claimed[entry[1]] = entry end
  while not enough(count - #fresh) do
    -- One at a time, because each may be huge, and what was read is delivered.
    local read = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', 1, 'STREAMS', stream, '>')
    local entry = read and read[1][2][1]
    if not entry then break end
    local again = claimed[entry[1]]
    if again then
      -- The group was set back, so what was claimed just now is read again, which counts from 1.
      redis.call('ZREM', due, entry[1] .. '/' .. again[2])
      again[2] = 1
    else
      note_size(entry)
      fresh[#fresh + 1] = {entry[1], 1, entry[2]}
    end
    redis.call('ZADD', due, now + lease, entry[1] .. '/1')
  end
  if summary[1] > 0 and summary[1] <= known then
    take_foreign(count - #fresh)
  end
  for _, entry in ipairs(fresh) do
    taken[#taken + 1] = entry
  end
end

local next_due = ''
if #taken == 0 then
  next_due = redis.call('ZRANGEBYSCORE', due, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2] or ''
elseif record_for > 0 then
  local members = {}
  for index, entry in ipairs(taken) do
    members[index] = entry[1] .. '/' .. entry[2]
  end
  redis.call('SET', record, table.concat(members, ' '), 'PX', record_for)
end
return {now, now + lease, 0, created, taken, dead_lettered, next_due, look_from}
