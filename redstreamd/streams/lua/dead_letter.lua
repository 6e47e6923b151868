-- Shared by the scripts that dead-letter; put in front of them, after delivery_history.lua.

-- Lua's unpack takes no more than about 8,000 values. An entry of another program that is larger is
-- dead-lettered without its fields; the note says where they still lie.
local UNPACK_LIMIT = 7000

-- Copies an entry into a dead-letter stream with a note, if it still lies in its stream.
-- held is its record in the pending entries list: {entry ID, consumer, idle time, deliveries}.
-- Returns the bytes of its content; nothing if there is none; nothing and the error if Redis refused.
local function dead_letter(stream, group, dead, history_key, held, reason)
  local entry = redis.call('XRANGE', stream, held[1], held[1])[1]
  if not entry then return nil end
  local note = {
    reason = reason, stream = stream, group = group, id = held[1], consumer = held[2],
    attempts = math.min(held[4], MOST_DELIVERIES), history = delivery_history.recall(history_key, held[1]),
  }
  local fields, size = entry[2], 0
  for _, value in ipairs(fields) do size = size + #value end
  if #fields > UNPACK_LIMIT then
    fields = {}
    note.fields_left_in_stream = true
  end
  fields[#fields + 1] = '_rs.dead'
  fields[#fields + 1] = cjson.encode(note)
  local added = redis.pcall('XADD', dead, '*', unpack(fields))
  if type(added) == 'table' then return nil, added end
  return size
end
