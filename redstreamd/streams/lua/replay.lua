-- Puts dead letters back into their stream, or deletes them: each once, whoever asks, since the dead
-- letter goes in the same step.
--
-- KEYS  1 the stream  2 its due set  3 the dead-letter stream  4 the group's record
-- ARGV  1 replay | delete  2 "1" to only tell what would happen  3 group
--       4 to 7 what the daemon knows of the group's clock, then the IDs of the dead letters
-- Returns {{outcome, entry ID or ""}, ...}. Outcomes: added (a new entry), returned (the original
--          entry is pending again), deleted, gone (no such dead letter), lost (its fields were left in
--          the stream, and it is there no more), stuck (they are there, and the group is not), large (it
--          has more fields than a script can copy), left (not looked at: those before it were enough)

local stream, due, dead, about = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local action, dry, group = ARGV[1], ARGV[2] == '1', ARGV[3]

-- Lua's unpack takes no more than about 8,000 values; see dead_letter.lua.
local UNPACK_LIMIT = 7000
-- Bytes of content after which no further letter is looked at: some 30 ms of the server's time.
local room = 16 * 1048576

-- Everything that could be refused is tried before anything is changed: the type of each key, memory
-- (first, because a script that has written may go on without), and the right to remove a dead letter.
-- XX adds nothing, and there is no entry 0-0.
redis.call('XLEN', stream)
redis.call('XLEN', dead)
if not dry then
  redis.call('ZADD', due, 'XX', 0, '')
  redis.call('XDEL', dead, '0-0')
end

local function remove(id)
  if not dry then redis.call('XDEL', dead, id) end
end

-- An entry too large for a script to copy stayed in its stream when it was dead-lettered. It cannot be
-- copied now either, so it becomes pending again, due at once, as if it had never been delivered; unless
-- it is pending already, because the group was set back: then whoever holds it goes on.
local function give_back(id, note)
  local original = tostring(note.id)
  local found = string.find(original, '^%d+%-%d+$') and redis.pcall('XRANGE', stream, original, original)
  if not found or found.err or #found == 0 then return {'lost', original} end
  local pending = redis.pcall('XPENDING', stream, group, original, original, 1)
  if pending.err then return {'stuck', original} end
  if #pending > 0 then
    remove(id)
  elseif not dry then
    -- Counted from the beginning: with the attempts that it had, the next take would dead-letter it again.
    redis.call('XCLAIM', stream, group, tostring(note.consumer), 0, original, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
    set_due(due, clock.begin(about, due, 4), original .. '/0', true)
    remove(id)
  end
  return {'returned', original}
end

local function replay(id, fields)
  if fields[#fields - 1] == '_rs.dead' then
    local readable, note = pcall(cjson.decode, fields[#fields])
    if readable and type(note) == 'table' and note.fields_left_in_stream then
      return give_back(id, note)
    end
    fields[#fields] = nil
    fields[#fields] = nil
  end
  if #fields > UNPACK_LIMIT then return {'large', ''} end
  if dry then return {'added', ''} end
  local added = redis.call('XADD', stream, '*', unpack(fields))
  remove(id)
  return {'added', added}
end

local outcomes = {}
for index = 8, #ARGV do
  local id = ARGV[index]
  local letter = room > 0 and redis.call('XRANGE', dead, id, id)[1]
  for _, value in ipairs(letter and letter[2] or {}) do room = room - #value end
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
