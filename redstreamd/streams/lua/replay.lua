-- Puts dead letters back into their stream, or deletes them; each once, since the dead letter is removed in the
-- same step.
--
-- KEYS stream due_set dead_letters group_hash
-- ARGV group action dry_run:bool letters...
--
-- action   replay | delete
-- dry_run  only report what would happen
-- letters  entry IDs
-- Returns {{outcome, entry ID or ""}, ...}. Outcomes:
--   added     as a new entry
--   returned  the original entry is pending again
--   deleted
--   gone      no such dead letter
--   lost      its fields were left in the stream and have been deleted there
--   stuck     its fields are in the stream, but the group does not exist
--   large     it has more fields than a script can copy
--   left      not examined: the letters before it used up the budget

-- Lua's unpack takes about 8,000 values; see dead_letter.lua.
local UNPACK_LIMIT = 7000
-- Bytes of content after which no further letter is examined: some 30 ms of the server's time.
local bytes_left = 16 * 1048576

-- Try what Redis may refuse before anything is changed: the type of each key, memory (first, because a script that
-- has written may exceed it), and the right to remove a dead letter. XX adds nothing, and there is no entry 0-0.
redis.call('XLEN', stream)
redis.call('XLEN', dead_letters)
if not dry_run then
  redis.call('ZADD', due_set, 'XX', 0, '')
  redis.call('XDEL', dead_letters, '0-0')
end

local function remove(id)
  if not dry_run then redis.call('XDEL', dead_letters, id) end
end

-- An entry that is too large for a script to copy stayed in its stream when it was dead-lettered. It becomes pending
-- again and due at once, as if it had never been delivered. If it is pending already, because the group was set
-- back, its holder keeps it.
local function return_original(id, note)
  local original = tostring(note.id)
  local found = string.find(original, '^%d+%-%d+$') and redis.pcall('XRANGE', stream, original, original)
  if not found or found.err or #found == 0 then return {'lost', original} end
  local pending = redis.pcall('XPENDING', stream, group, original, original, 1)
  if pending.err then return {'stuck', original} end
  if #pending > 0 then
    remove(id)
  elseif not dry_run then
    -- The count begins anew: with its old attempts the next take would dead-letter it again.
    redis.call('XCLAIM', stream, group, tostring(note.consumer), 0, original, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
    set_due(due_set, clock.begin(group_hash, due_set), original .. '/0', true)
    remove(id)
  end
  return {'returned', original}
end

local function replay(id, fields)
  if fields[#fields - 1] == '_rs.dead' then
    local readable, note = pcall(cjson.decode, fields[#fields])
    if readable and type(note) == 'table' and note.fields_left_in_stream then
      return return_original(id, note)
    end
    fields[#fields] = nil
    fields[#fields] = nil
  end
  if #fields > UNPACK_LIMIT then return {'large', ''} end
  if dry_run then return {'added', ''} end
  local added = redis.call('XADD', stream, '*', unpack(fields))
  remove(id)
  return {'added', added}
end

local outcomes = {}
for index = letters, #ARGV do
  local id = ARGV[index]
  local letter = bytes_left > 0 and redis.call('XRANGE', dead_letters, id, id)[1]
  for _, value in ipairs(letter and letter[2] or {}) do bytes_left = bytes_left - #value end
  if letter == false then
    outcomes[#outcomes + 1] = {'left', ''}
  elseif not letter then
    outcomes[#outcomes + 1] = {'gone', ''}
  elseif action == 'delete' then
    remove(id)
    outcomes[#outcomes + 1] = {'deleted', ''}
  else
    outcomes[#outcomes + 1] = replay(id, letter[2])
  end
end
return outcomes
