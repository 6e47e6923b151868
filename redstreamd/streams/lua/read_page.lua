-- Reads entries up to a number and a size, but at least one if there is any.
--
-- KEYS stream
-- ARGV command first last max_entries:int max_bytes:int most_bytes:int
-- REPLY entries beyond:text large:bool alone:text
--
-- command  XRANGE | XREVRANGE; first and last as it takes them
-- most_bytes  of the page, for a connection that others wait for; 0 for no bound
-- large  the page would have more than most_bytes: nothing is returned, it is to be asked for elsewhere
-- alone  with large: ID of the first entry, if that fills the page; what follows it was not looked at
-- beyond  ID of the entry that follows, if there is one; of a page of 0 entries, of the first
-- entries  {entry ID, {name, value, ...}}; of a page that fits, as JSON in one text, whose bytes need not be UTF-8

-- The size of the next entries is not known. More are read at once while they are small: each call costs as much as
-- reading ten more entries.
local at_once, MAX_AT_ONCE, bytes_left = 1, 32, max_bytes

-- Redis refuses a range before the least ID, too. XLEN raises an error if the key is not a stream.
if first == (command == 'XRANGE' and '(' .. MAX_ID or '(0-0') then
  redis.call('XLEN', stream)
  return reply({entries = {}})
end

-- The server takes longer to turn many texts of Lua into a reply than to encode them as JSON. That reserves six
-- bytes for each byte, so not where entries may be large.
local MAX_ENCODED = 1048576
local function is_large()
  return most_bytes > 0 and max_bytes - bytes_left > most_bytes
end
local function leave(page)
  return reply({entries = {}, large = true, alone = #page == 1 and bytes_left <= 0 and page[1][1] or nil})
end
local function read(page, beyond)
  if is_large() then return leave(page) end
  local entries = page
  if #page > 0 and bytes_left > 0 and max_bytes <= MAX_ENCODED then entries = cjson.encode(page) end
  return reply({entries = entries, beyond = beyond})
end

local page = {}
while true do
  -- One beyond the page tells whether there is more.
  local wanted = math.min(at_once, max_entries - #page + 1)
  local entries = redis.call(command, stream, first, last, 'COUNT', wanted) -- XRANGE, XREVRANGE
  -- Without ipairs, which calls a function for each value.
  for index = 1, #entries do
    local entry = entries[index]
    if #page == max_entries or bytes_left <= 0 then return read(page, entry[1]) end
    page[#page + 1] = entry
    local values = entry[2]
    for each = 1, #values do bytes_left = bytes_left - #values[each] end
  end
  -- What follows may be as large.
  if is_large() then return leave(page) end
  if #entries < wanted then return read(page) end
  local reached = page[#page][1]
  if command == 'XRANGE' and reached == MAX_ID then return read(page) end
  first = '(' .. reached
  at_once = bytes_left > 0 and math.min(4 * at_once, MAX_AT_ONCE) or 1
end
