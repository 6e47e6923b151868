-- Adds entries all together, once per idempotency key, and trims what no group needs; needs idempotency.lua and
-- packed_entries.lua.
--
-- KEYS trim_record
-- ARGV max_length:int max_age_ms:int
-- REPLY outcome:int ids kept_for:text groups:int too_many:int found:bool
--
-- trim_record of a stream with many groups: who needed the entries when they were last asked
-- ids         separated by spaces
-- outcome     0: added; 1: the key was used before for the same body; -1: it was used for another body; 2: it was not
--             used before, and nothing was to be added; 3, 4: as 0 and 1, in quarantine
-- kept_for    a group that needs entries which would otherwise have been trimmed
-- groups      how many groups the stream has, if that was asked
-- too_many    the same, if nothing was trimmed because of it
-- found       an earlier call or an earlier sending of this one added the entries; nothing was written

-- Limits of the search for what to trim where there are groups. One call removes as many entries as it adds,
-- and beyond these at most so many entries or bytes. So a stream that is far too long gets shorter with each call.
local MAX_SCANNED, MAX_SCANNED_BYTES = 1000, 1048576
-- With more groups than this, they are not asked by each call, but only when so many ms for each of them have passed:
-- so that asking takes 2 % of the server's time at most. What is added meanwhile stays until then.
local FEW_GROUPS, PAUSE_PER_GROUP = 16, 0.15

local before = find_before()
if before then return reply(before) end
if only_known then return reply({outcome = 2}) end
try_record()

-- Returns the first entry ID that a group has pending or has not read, and that group; nothing without groups.
-- A pending entry that was deleted counts: the next take removes it from the list.
local function find_needed(groups)
  local first, by
  for _, flat in ipairs(groups) do
    local group = map(flat)
    local from = after(group['last-delivered-id'])
    if group['pending'] > 0 then
      local oldest = redis.call('XPENDING', stream, group['name'], '-', '+', 1)[1][1]
      -- The pending entry is later if the group's position was set back.
      if beyond(from, oldest) then from = oldest end
    end
    if not first or beyond(first, from) then first, by = from, group['name'] end
  end
  return first, by
end

-- What to trim: `excess` entries, and those below the ID `oldest`.
local excess, oldest, aged = 0, nil, false
local needed, needed_by, groups, too_many
local kept_for = ''
if max_length or max_age_ms then
  redis.call('XTRIM', stream, 'MINID', '=', '0-0')
  if max_length then excess = redis.call('XLEN', stream) + entry_count - max_length end
  if max_age_ms then
    local clock = redis.call('TIME')
    local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
    oldest = string.format('%.0f-0', math.max(1, now - max_age_ms))
  end
  aged = redis.call('XRANGE', stream, '-', oldest and '(' .. oldest or '-', 'COUNT', 1)[1] ~= nil
  -- This asks every group, so only if there is something to trim.
  if (excess > 0 or aged) and redis.call('EXISTS', stream) == 1 then
    local asked = not few_groups and redis.pcall('GET', trim_record) -- optional
    if type(asked) ~= 'string' then asked = nil end
    local found
    if not asked then
      found, groups = groups_up_to(stream, max_groups)
      if not found then too_many = groups end
    end
    if found then
      needed, needed_by = find_needed(found)
    else
      kept_for, excess, aged = asked or '', 0, false
    end
  end
end

local ids = add_all(function(...) return redis.call('XADD', stream, '*', ...) end)

-- Returns the last of the oldest `excess` entries that no group needs, or nothing; and how many were scanned.
local function last_removable()
  local last, scanned, bytes, size = nil, 0, 0, 1
  -- Where groups are not asked by each call, this one removes what several added.
  local most = MAX_SCANNED + (groups > FEW_GROUPS and 10 * groups or 0)
  while scanned < excess and (scanned < #ids or (scanned < most and bytes < MAX_SCANNED_BYTES)) do
    -- Entries are read whole, so the size of the last one decides how many to read at once.
    local count = math.min(excess - scanned, 100, math.max(1, math.floor(MAX_SCANNED_BYTES / 10 / size)))
    if not last then count = 1 end
    local page = redis.call(
      'XRANGE', stream, last and '(' .. last or '-', '(' .. needed, 'COUNT', count)
    for _, entry in ipairs(page) do
      size = 1
      for _, value in ipairs(entry[2]) do size = size + #value end
      bytes = bytes + size
      last = entry[1]
    end
    scanned = scanned + #page
    if #page < count then break end
  end
  return last, scanned
end

if excess > 0 then
  if not needed then
    redis.call('XTRIM', stream, 'MAXLEN', '=', max_length)
  else
    local last, scanned = last_removable()
    if last then redis.call('XTRIM', stream, 'MINID', '=', after(last)) end
    if scanned < excess and #redis.call('XRANGE', stream, '-', '(' .. needed, 'COUNT', 1) == 0 then
      kept_for = needed_by
    end
  end
end
if aged then
  if needed and beyond(oldest, needed) then
    redis.call('XTRIM', stream, 'MINID', '=', needed)
    if #redis.call('XRANGE', stream, '-', '(' .. oldest, 'COUNT', 1) > 0 then kept_for = needed_by end
  else
    redis.call('XTRIM', stream, 'MINID', '=', oldest)
  end
end
if groups and groups > FEW_GROUPS and not too_many then
  redis.pcall('SET', trim_record, kept_for, 'PX', math.ceil(groups * PAUSE_PER_GROUP)) -- optional
end
local listed = table.concat(ids, ' ')
write_record(listed, kept_for)
return reply({outcome = 0, ids = listed, kept_for = kept_for, groups = groups, too_many = too_many})
