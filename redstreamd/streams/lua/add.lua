-- Adds entries all together, once per idempotency key, and trims what no group needs.
--
-- KEYS stream record own_record former_record call_record trim_record
-- ARGV body_hash keep_ms max_length:int max_age_ms:int call_record_ms entries
-- ARGV owner former key_id former_hash plain_hash former_plain_hash kept_hash only_known:bool
-- REPLY outcome:int ids kept_for:text groups:int too_many:int
--
-- record      of the idempotency key, by whichever principal used it first; without a key, the name of a key that
--             does not exist
-- own_record  of the idempotency key, by this principal, if it was not the first
-- former_record the same by its former name
-- owner       the principal, and `former` what it was called before, or empty; "-": the key is redstreamd's own
-- key_id      of the key that the hashes are made with
-- former_hash, plain_hash, former_plain_hash  other forms of the same body's hash: by the former name, without a key
-- kept_hash   the form to record
-- call_record what an earlier sending of this call did; kept for call_record_ms
-- trim_record of a stream with many groups: who needed the entries when they were last asked
-- body_hash   empty without an idempotency key; with one, the record is kept for keep_ms
-- entries     in MessagePack: an array of maps of their names and values, which are in their order there
-- only_known  add nothing; only tell whether the key was used before
-- ids         separated by spaces
-- outcome     0: added; 1: the key was used before for the same body; -1: it was used for another body; 2: it was not
--             used before, and nothing was to be added
-- kept_for    a group that needs entries which would otherwise have been trimmed
-- groups      how many groups the stream has, if that was asked
-- too_many    the same, if nothing was trimmed because of it

-- Limits of the search for what to trim where there are groups. One call removes as many entries as it adds,
-- and beyond these at most so many entries or bytes. So a stream that is far too long gets shorter with each call.
local MAX_SCANNED, MAX_SCANNED_BYTES = 1000, 1048576
-- With more groups than this, they are not asked by each call, but only when so many ms for each of them have passed:
-- so that asking takes 2 % of the server's time at most. What is added meanwhile stays until then.
local FEW_GROUPS, PAUSE_PER_GROUP = 16, 0.15

-- Returns who added an entry; nil if it is gone, or nobody is named.
local function sender_of(id)
  local found = redis.pcall('XRANGE', stream, id, id) -- optional
  local fields = not found.err and found[1] and found[1][2] or {}
  -- Reserved fields come last.
  for index = #fields - 1, 1, -2 do
    if fields[index] == '_rs.sender' then return fields[index + 1] end
  end
end

-- Returns the entries that a record names, if it is of the same call; false if it is of another call of the
-- principal; nil if it is another principal's.
local function find_added(saved)
  local known, ids = string.match(saved, '^(%S+) (.*)$')
  if not known then return nil end
  if known == body_hash or known == plain_hash then return ids end
  if known == former_hash or known == former_plain_hash then return ids end
  local by_key, by = string.match(known, '^k1%.(%x+)%.%x+%.(%S+)$')
  if by_key and by_key ~= key_id then return (by == owner or by == former) and ids or nil end
  if owner == '-' then return false end
  if not by then by = sender_of(string.match(ids, '^%S+')) end
  if by == owner then return false end
end

-- Returns what a record holds, and what `find_added` says of it; nothing if there is none.
local function look_into(name)
  local saved = redis.call('GET', name)
  if saved then return saved, find_added(saved) end
end

-- The record to write, and what it holds.
local written, saved = record, nil
-- The record of a deleted stream names entries that are gone.
if body_hash ~= '' and redis.call('EXISTS', stream) == 1 then
  local added, own
  saved, added = look_into(record)
  if added == nil and own_record ~= record then
    own, added = look_into(own_record)
    if saved then written, saved = own_record, own end
    if added == nil and former ~= '' then
      local _, before = look_into(former_record)
      added = before or nil
    end
  end
  if added then
    -- If this call added them itself, and its reply was lost, they are no duplicates.
    local kept_for = redis.call('GET', call_record)
    return reply({outcome = kept_for and 0 or 1, ids = added, kept_for = kept_for})
  end
  if added == false then return reply({outcome = -1}) end
end
if only_known then return reply({outcome = 2}) end

-- Returns the length of the array or map at an offset in `entries`, and the offset of its first part.
local function open(at)
  local tag, high, low = string.byte(entries, at + 1, at + 3)
  -- Those of up to 15 parts have the length in the tag, longer ones in two bytes behind it.
  if tag < 0xdc then return tag % 16, at + 1 end
  return 256 * high + low, at + 3
end
local count, at = open(0)

-- Try what Redis may refuse before anything is added; memory first, because a script that has written may
-- exceed it. Neither command changes anything: one writes the value that is there, the other finds no stream.
if body_hash ~= '' then
  redis.call('SET', written, saved or redis.call('GET', written) or '', 'XX', 'KEEPTTL')
else
  redis.call('XADD', record, 'NOMKSTREAM', '*', '', '')
end

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
  if max_length then excess = redis.call('XLEN', stream) + count - max_length end
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

local ids = {}
local function add(behind, ...)
  at = behind
  ids[#ids + 1] = redis.call('XADD', stream, '*', ...)
end
for _ = 1, count do
  local members, first = open(at)
  -- Unpacked to arguments and not to a table, which would lose their order, and costs more.
  add(cmsgpack.unpack_limit(entries, 2 * members, first))
end

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
if body_hash ~= '' then
  redis.call('SET', written, kept_hash .. ' ' .. listed, 'PX', keep_ms)
  redis.call('SET', call_record, kept_for, 'PX', call_record_ms)
end
return reply({outcome = 0, ids = listed, kept_for = kept_for, groups = groups, too_many = too_many})
