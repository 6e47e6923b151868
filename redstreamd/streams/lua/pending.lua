-- Reads a page of a group's pending entries list, and when each entry is due.
--
-- KEYS stream due_set group_hash
-- ARGV group start count:int consumer min_idle_ms:int min_deliveries:int max_scanned:int asked manages:bool
-- REPLY now:int total:int entries last_scanned:text more:bool
--
-- start    as XPENDING takes it
-- consumer empty for any. A name that is another principal's stands for the caller's own consumer, as in a take
-- asked    the name that the caller gave
-- manages  the caller may manage the group: where its own consumer holds nothing, the name is as Redis knows it
-- total    pending entries of the group
-- entries  {entry ID, consumer, idle ms, deliveries, due time or "", 1 if it is a delayed retry}

-- XPENDING's own IDLE filter scans the whole list if nothing matches; pages have a bound.
local PAGE = 500

clock.begin(group_hash, due_set)

local function total_pending()
  for _, flat in ipairs(groups_up_to(stream, max_groups) or {}) do
    local values = map(flat)
    if values['name'] == group then return values['pending'] end
  end
  -- Raises NOGROUP. It asks each consumer of the group, and none of other groups.
  return redis.call('XPENDING', stream, group)[1]
end

local total = total_pending()
if consumer ~= '' then
  consumer = consumer_owner.find(group_hash, consumer)
  if consumer ~= asked and manages and #redis.call('XPENDING', stream, group, '-', '+', 1, consumer) == 0 then
    consumer = asked
  end
end
local entries, scanned, last = {}, 0, nil

local function page_of(more)
  return reply({now = server_now, total = total, entries = entries, last_scanned = last, more = more})
end

while start ~= '(' .. MAX_ID do
  local ask = {'XPENDING', stream, group, start, '+', math.min(PAGE, max_scanned - scanned)}
  if consumer ~= '' then ask[7] = consumer end
  local page = redis.call(unpack(ask)) -- XPENDING
  for _, pending in ipairs(page) do
    if #entries == count then return page_of(true) end
    last = pending[1]
    -- An entry that XNACK released has an idle time of -1.
    if (min_idle_ms == 0 or pending[3] >= min_idle_ms) and pending[4] >= min_deliveries then
      local due_at, returned = find_due(due_set, pending[1] .. '/' .. pending[4])
      entries[#entries + 1] = {
        pending[1], pending[2], pending[3], pending[4],
        due_at and string.format('%.0f', due_at - clock.ahead) or '', returned and 1 or 0,
      }
    end
  end
  scanned = scanned + #page
  if #page < ask[6] then return page_of(false) end
  if scanned >= max_scanned then return page_of(true) end
  start = '(' .. last
end
return page_of(false)
