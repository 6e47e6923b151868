-- Puts entries for a stream into quarantine, all together, once per idempotency key; needs idempotency.lua and
-- packed_entries.lua.
--
-- KEYS quarantine
-- ARGV most_entries:int most_bytes:int keep_waiting_ms:int
-- REPLY outcome:int ids kept_for:text groups:int too_many:int found:bool
--
-- most_bytes      by MEMORY USAGE
-- keep_waiting_ms older entries are removed
-- outcome         3: they wait; 5: there is no room; others as in add.lua

local before = find_before()
if before then return reply(before) end
if only_known then return reply({outcome = 2}) end

-- What cannot be added to is refused now, not when it is released.
redis.call('XLEN', stream)
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('XTRIM', quarantine, 'MINID', '=', string.format('%.0f-0', math.max(1, now - keep_waiting_ms)))
local used = redis.pcall('MEMORY', 'USAGE', quarantine, 'SAMPLES', 0) -- optional
if type(used) ~= 'number' then used = 0 end
if redis.call('XLEN', quarantine) + entry_count > most_entries or used + #entries > most_bytes then
  return reply({outcome = 5})
end

try_record()
-- Returns the ID of an entry that was added. What is removed when it is released comes first.
local function add(...)
  return redis.call('XADD', quarantine, '*', '_rs.quarantine', stream, ...)
end
local listed = table.concat(add_all(add), ' ')
redis.call('PEXPIRE', quarantine, keep_waiting_ms)
write_record('quarantine ' .. listed, '')
return reply({outcome = 3, ids = listed})
