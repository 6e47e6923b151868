-- Moves entries from a quarantine into the streams that they are for, or removes them; each once, since it leaves the
-- quarantine in the same step.
--
-- KEYS quarantine call_record targets...
-- ARGV action by execute:bool call_record_ms ids...
--
-- call_record what an earlier sending of this call did; kept for call_record_ms
-- targets     the streams that entries may be moved to
-- action      release | discard
-- by          the principal that releases them
-- execute     otherwise only report
-- Returns {{outcome, stream, entry ID or ""}, ...}. Outcomes:
--   waiting   reported only
--   released  as this new entry
--   discarded
--   gone      it is not in the quarantine
--   left      not examined: those before it used up the budget, or its stream is not among the targets

-- Bytes of content after which no further entry is examined: some 30 ms of the server's time.
local bytes_left = 16 * 1048576

local done = execute and redis.call('GET', call_record)
if done then return cjson.decode(done) end

-- Try what Redis may refuse before anything is changed: the type of each key, memory (first, because a script that
-- has written may exceed it), and the right to remove an entry. There is no entry 0-0.
local is_target = {}
redis.call('XLEN', quarantine)
for index = targets, #KEYS do
  redis.call('XLEN', KEYS[index])
  is_target[KEYS[index]] = true
end
if execute then
  redis.call('SET', call_record, '', 'XX')
  redis.call('XDEL', quarantine, '0-0')
end

local function settle(id)
  if bytes_left <= 0 then return {'left', '', ''} end
  local entry = redis.call('XRANGE', quarantine, id, id)[1]
  if not entry or entry[2][1] ~= '_rs.quarantine' then return {'gone', '', ''} end
  local target, fields = entry[2][2], {}
  for index = 3, #entry[2] do
    fields[#fields + 1] = entry[2][index]
    bytes_left = bytes_left - #entry[2][index]
  end
  if not execute then return {'waiting', target, ''} end
  if action == 'discard' then
    redis.call('XDEL', quarantine, id)
    return {'discarded', target, ''}
  end
  if not is_target[target] then return {'left', target, ''} end
  fields[#fields + 1] = '_rs.released'
  fields[#fields + 1] = id .. ' ' .. by
  local added = redis.call('XADD', target, '*', unpack(fields))
  redis.call('XDEL', quarantine, id)
  return {'released', target, added}
end

local outcomes = {}
for index = ids, #ARGV do outcomes[#outcomes + 1] = settle(ARGV[index]) end
if execute then redis.call('SET', call_record, cjson.encode(outcomes), 'PX', call_record_ms) end
return outcomes
