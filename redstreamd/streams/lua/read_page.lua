-- Reads entries up to a number and a size, but at least one if there is any.
--
-- KEYS stream
-- ARGV command first last max_entries:int max_bytes:int
-- REPLY entries more:bool
--
-- command  XRANGE | XREVRANGE; first and last as it takes them
-- entries  {entry ID, {name, value, ...}}

-- The size of the next entries is not known. More are read at once while they are small: each call costs as much as
-- reading ten more entries.
local at_once, MAX_AT_ONCE, bytes_left = 1, 32, max_bytes

-- Redis refuses a range before the least ID, too. XLEN raises an error if the key is not a stream.
if first == (command == 'XRANGE' and '(' .. MAX_ID or '(0-0') then
  redis.call('XLEN', stream)
  return reply({entries = {}})
end

local page = {}
while true do
  -- One beyond the page tells whether there is more.
  local wanted = math.min(at_once, max_entries - #page + 1)
  local entries = redis.call(command, stream, first, last, 'COUNT', wanted) -- XRANGE, XREVRANGE
  for _, entry in ipairs(entries) do
    if #page == max_entries or bytes_left <= 0 then return reply({entries = page, more = true}) end
    page[#page + 1] = entry
    for _, value in ipairs(entry[2]) do bytes_left = bytes_left - #value end
  end
  if #entries < wanted then return reply({entries = page}) end
  local reached = page[#page][1]
  if command == 'XRANGE' and reached == MAX_ID then return reply({entries = page}) end
  first = '(' .. reached
  at_once = bytes_left > 0 and math.min(4 * at_once, MAX_AT_ONCE) or 1
end
