-- Finds what an earlier call with the same idempotency key added, and records what this one adds.
--
-- KEYS stream record own_record former_record call_record
-- ARGV body_hash keep_ms call_record_ms
-- ARGV owner former key_id former_hash plain_hash former_plain_hash kept_hash only_known:bool
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
-- body_hash   empty without an idempotency key; with one, the record is kept for keep_ms
-- only_known  add nothing; only tell whether the key was used before
--
-- A record is a hash and entry IDs, separated by spaces; before IDs in the quarantine stands "quarantine".

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

-- The record to write, and what it holds.
local written, saved = record, nil

-- Returns the outcome of a call with the same key, with the IDs of its entries; nil if there was none.
local function find_before()
  if body_hash == '' then return nil end
  local is_there = redis.call('EXISTS', stream) == 1
  -- Returns what a record holds, and what `find_added` says of it; nothing if there is none.
  local function look_into(name)
    local found = redis.call('GET', name)
    -- The record of a deleted stream names entries that are gone.
    if found and (is_there or string.find(found, ' quarantine ', 1, true)) then return found, find_added(found) end
  end
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
  if added == nil then return nil end
  if not added then return {outcome = -1} end
  -- If this call added them itself, and its reply was lost, they are no duplicates.
  local kept_for = redis.call('GET', call_record)
  local waiting = string.match(added, '^quarantine (.*)$')
  if waiting then return {outcome = kept_for and 3 or 4, ids = waiting, found = true} end
  return {outcome = kept_for and 0 or 1, ids = added, kept_for = kept_for, found = true}
end

-- Tries what Redis may refuse before anything is added; memory first, because a script that has written may
-- exceed it. Neither command changes anything: one writes the value that is there, the other finds no stream.
local function try_record()
  if body_hash ~= '' then
    redis.call('SET', written, saved or redis.call('GET', written) or '', 'XX', 'KEEPTTL')
  else
    redis.call('XADD', record, 'NOMKSTREAM', '*', '', '')
  end
end

-- Records what was added; kept_for is told to whoever repeats this sending.
local function write_record(listed, kept_for)
  if body_hash ~= '' then
    redis.call('SET', written, kept_hash .. ' ' .. listed, 'PX', keep_ms)
    redis.call('SET', call_record, kept_for, 'PX', call_record_ms)
  end
end

