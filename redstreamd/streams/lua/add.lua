-- Adds entries all together, once per idempotency key, and trims the stream of what no group needs.
--
-- KEYS  1 the stream  2 the record of the idempotency key; without a key, a key that does not exist
--       3 what an earlier sending of this call did
-- ARGV  1 hash of the body ("": no key)  2 how long to keep the record, in ms
--       3 longest length of the stream ("": any)  4 oldest age of an entry in ms ("": any)
--       5 with a key, how long to remember this call, in ms
--       then for each entry the number of its fields and values, and those
-- Returns {1 if the key was known, {entry ID, ...}, group that needs entries which would else have been
--          trimmed, or ""}, or {-1, {}, ""} if the key was used with another body

local stream, record, call = KEYS[1], KEYS[2], KEYS[3]
local hash, keep, max_length, max_age = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local remember_for = ARGV[5]

-- The most that one call walks to find what to trim where there are groups: it removes as many as it adds,
-- and beyond that so many entries or bytes. A stream that is far too long gets shorter with each call.
local MOST_ENTRIES, MOST_BYTES = 1000, 1048576

local saved
if hash ~= '' then
  saved = redis.call('GET', record)
  -- A record outlives a stream that is deleted, and then tells of entries that are nowhere.
  if saved and redis.call('EXISTS', stream) == 1 then
    local known, listed = string.match(saved, '^(%S+) (.*)$')
    local ids = {}
    for id in string.gmatch(listed, '%S+') do ids[#ids + 1] = id end
    if known ~= hash then return {-1, {}, ''} end
    -- If this very call added them, and its reply was lost, it is no duplicate.
    local held_by = redis.call('GET', call)
    return {held_by and 0 or 1, ids, held_by or ''}
  end
end

local adds, at = {}, 6
while at <= #ARGV do
  local size = tonumber(ARGV[at])
  local add = {'XADD', stream, '*'}
  for index = at + 1, at + size do add[#add + 1] = ARGV[index] end
  adds[#adds + 1] = add
  at = at + size + 1
end

-- Whatever may be refused is asked for before anything is added; memory first, because a script that has
-- written goes on without. Neither command changes anything: one writes what is there, the other finds
-- nothing to add to.
if hash ~= '' then
  redis.call('SET', record, saved or '', 'XX', 'KEEPTTL')
else
  redis.call('XADD', record, 'NOMKSTREAM', '*', '', '')
end

-- Returns the first entry ID that some group has pending or did not get yet, and that group; nothing if
-- the stream has no groups. A pending entry whose content is gone counts: the next take forgets it.
local function needed()
  local first, by
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = {}
    for index = 1, #flat, 2 do group[flat[index]] = flat[index + 1] end
    local from = after(group['last-delivered-id'])
    if group['pending'] > 0 then
      local oldest = redis.call('XPENDING', stream, group['name'], '-', '+', 1)[1][1]
      -- Later than that, if the group was set back.
      if beyond(from, oldest) then from = oldest end
    end
    if not first or beyond(first, from) then first, by = from, group['name'] end
  end
  return first, by
end

-- What is to go, from what is there and what comes: so many entries, and those that are older than an ID.
local excess, oldest, aged = 0, nil, false
local first_needed, needed_by
if max_length or max_age then
  redis.call('XTRIM', stream, 'MINID', '=', '0-0')
  if max_length then excess = redis.call('XLEN', stream) + #adds - max_length end
  if max_age then
    local clock = redis.call('TIME')
    local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
    oldest = string.format('%.0f-0', math.max(1, now - max_age))
  end
  aged = redis.call('XRANGE', stream, '-', oldest and '(' .. oldest or '-', 'COUNT', 1)[1] ~= nil
  -- It costs a look at each group, so only where something is to go.
  if (excess > 0 or aged) and redis.call('EXISTS', stream) == 1 then
    first_needed, needed_by = needed()
  end
end

local ids = {}
for index, add in ipairs(adds) do ids[index] = redis.call(unpack(add)) end -- XADD

-- Returns the last of the oldest `excess` entries that no group needs, or nothing.
local function last_spare()
  local last, walked, bytes, size = nil, 0, 0, 1
  while walked < excess and (walked < #ids or (walked < MOST_ENTRIES and bytes < MOST_BYTES)) do
    -- Entries are read whole; from the size of the one before follows how many to read at once.
    local count = math.min(excess - walked, 100, math.max(1, math.floor(MOST_BYTES / 10 / size)))
    if not last then count = 1 end
    local page = redis.call(
      'XRANGE', stream, last and '(' .. last or '-', '(' .. first_needed, 'COUNT', count)
    for _, entry in ipairs(page) do
      size = 1
      for _, value in ipairs(entry[2]) do size = size + #value end
      bytes = bytes + size
      last = entry[1]
    end
    walked = walked + #page
    if #page < count then break end
  end
  return last, walked
end

local held_by = ''
if excess > 0 then
  if not first_needed then
    redis.call('XTRIM', stream, 'MAXLEN', '=', max_length)
  else
    local last, walked = last_spare()
    if last then redis.call('XTRIM', stream, 'MINID', '=', after(last)) end
    if walked < excess and #redis.call('XRANGE', stream, '-', '(' .. first_needed, 'COUNT', 1) == 0 then
      held_by = needed_by
    end
  end
end
if aged then
  if first_needed and beyond(oldest, first_needed) then
    redis.call('XTRIM', stream, 'MINID', '=', first_needed)
    if #redis.call('XRANGE', stream, '-', '(' .. oldest, 'COUNT', 1) > 0 then held_by = needed_by end
  else
    redis.call('XTRIM', stream, 'MINID', '=', oldest)
  end
end
if hash ~= '' then
  redis.call('SET', record, hash .. ' ' .. table.concat(ids, ' '), 'PX', keep)
  redis.call('SET', call, held_by, 'PX', remember_for)
end
return {0, ids, held_by}
