-- Dead-letters entries; needs delivery_history.lua.

-- Lua's unpack takes about 8,000 values. An entry of another program that is larger is dead-lettered without its
-- fields; the note says that they are still in the stream.
local UNPACK_LIMIT = 7000

-- Copies an entry with a note into a dead-letter stream, if it is still in its own.
-- pending: its record of the pending entries list, {entry ID, consumer, idle ms, deliveries}.
-- Returns the bytes of its content; nil if it was deleted; nil and the error if Redis refused.
local function add_dead_letter(stream, group, dead_letters, history, pending, reason)
  local entry = redis.call('XRANGE', stream, pending[1], pending[1])[1]
  if not entry then return nil end
  local note = {
    reason = reason, stream = stream, group = group, id = pending[1], consumer = pending[2],
    attempts = math.min(pending[4], COUNTER_LIMIT), history = delivery_history.read(history, pending[1]),
  }
  local fields, size = entry[2], 0
  for _, value in ipairs(fields) do size = size + #value end
  if #fields > UNPACK_LIMIT then
    fields = {}
    note.fields_left_in_stream = true
  end
  fields[#fields + 1] = '_rs.dead'
  fields[#fields + 1] = cjson.encode(note)
  local added = redis.pcall('XADD', dead_letters, '*', unpack(fields))
  if type(added) == 'table' then return nil, added end
  return size
end

