-- Reads a page of a group's pending entries list together with when each entry is due.
--
-- KEYS  1 the stream  2 its due set  3 the group's record
-- ARGV  1 group  2 where to begin, as XPENDING takes it  3 most entries to return  4 consumer ("": any)
--       5 least idle time in ms  6 least deliveries  7 most entries to look at
--       8 to 11 what the daemon knows of the group's clock
-- Returns {now, number of pending entries in the group, {{entry ID, consumer, idle ms, deliveries,
--          due time or "", 1 if nobody holds it}, ...}, last entry ID looked at or "", 1 if there may be more}

local stream, due, about = KEYS[1], KEYS[2], KEYS[3]
local group, from, count, consumer = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local min_idle, min_deliveries, most = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

-- XPENDING's own IDLE filter walks the whole list if nothing fits; a page at a time has a bound.
local PAGE = 500

clock.begin(about, due, 8)
local now = server_now

local function total_pending()
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local values = {}
    for index = 1, #flat, 2 do values[flat[index]] = flat[index + 1] end
    if values['name'] == group then return values['pending'] end
  end
  -- Says that there is no such group. Where there is one it would ask each of its consumers.
  return redis.call('XPENDING', stream, group)[1]
end

local total = total_pending()
local found, looked, last = {}, 0, ''
-- Redis refuses a range that begins beyond the greatest ID; nothing is there.
local LAST = '18446744073709551615-18446744073709551615'
while from ~= '(' .. LAST do
  local ask = {'XPENDING', stream, group, from, '+', math.min(PAGE, most - looked)}
  if consumer ~= '' then ask[7] = consumer end
  local page = redis.call(unpack(ask)) -- XPENDING
  for _, held in ipairs(page) do
    if #found == count then return {now, total, found, last, 1} end
    last = held[1]
    -- An entry that XNACK released has an idle time of -1.
    if (min_idle == 0 or held[3] >= min_idle) and held[4] >= min_deliveries then
      local due_at, given_back = find_due(due, held[1] .. '/' .. held[4])
      found[#found + 1] = {
        held[1], held[2], held[3], held[4],
        due_at and string.format('%.0f', due_at - clock.ahead) or '', given_back and 1 or 0,
      }
    end
  end
  looked = looked + #page
  if #page < ask[6] then return {now, total, found, last, 0} end
  if looked >= most then return {now, total, found, last, 1} end
  from = '(' .. last
end
return {now, total, found, last, 0}
