-- Removes entries from a stream, unless a group needs one of them.
--
-- KEYS stream quarantine companions...
-- ARGV action execute:bool force:bool check:bool targets...
-- REPLY removed:int needed_by:int needs waiting:int
--
-- quarantine for delete: removed with the stream; what waits in it is removed only by force
-- companions for delete: further keys to remove
-- action     trim | entries | delete
-- execute    otherwise only report
-- force      remove the entries whatever groups need
-- check      whether the groups are asked; otherwise none counts as needing anything
-- targets    for trim the ID below which entries are removed; for entries their IDs
-- removed    if `entries` are only reported, how many of them exist
-- needed_by  number of groups that need some; nothing is removed then without force
-- waiting    for delete: number of entries in quarantine
-- needs      {group, "pending" | "unread", ID of the first, ...} of the first ten of these groups

-- Pending entries that are looked up, of one group and of all together. Deleted ones beyond that count as needed, to
-- be on the safe side.
local MAX_LOOKUPS, lookups_left = 100, 5000
local boundary = ARGV[targets]

local function exists(id)
  return redis.call('XRANGE', stream, id, id)[1] ~= nil
end

local function pending_between(group, from, to)
  local allowed = math.min(MAX_LOOKUPS, lookups_left)
  -- One more than is looked up: it counts as needed.
  local page = redis.call('XPENDING', stream, group, from, to, allowed + 1)
  for index = 1, math.min(#page, allowed) do
    lookups_left = lookups_left - 1
    if exists(page[index][1]) then return page[index][1] end
  end
  return #page > allowed and page[1][1] or nil
end

local function unread_between(delivered, to)
  if delivered == MAX_ID then return nil end
  local entry = redis.call('XRANGE', stream, '(' .. delivered, to, 'COUNT', 1)[1]
  return entry and entry[1] or nil
end

-- Returns why the group needs one of the entries, and its ID; nil if it does not.
local function need(group, delivered)
  if action ~= 'entries' then
    local to = action == 'trim' and '(' .. boundary or '+'
    local pending = pending_between(group, '-', to)
    if pending then return 'pending', pending end
    if action == 'delete' or beyond(boundary, delivered) then
      local unread = unread_between(delivered, to)
      if unread then return 'unread', unread end
    end
    return nil
  end
  for index = targets, #ARGV do
    local id = ARGV[index]
    if exists(id) then
      if beyond(id, delivered) then return 'unread', id end
      if #redis.call('XPENDING', stream, group, id, id, 1) > 0 then return 'pending', id end
    end
  end
end

local needed_by, needs = 0, {}
for _, flat in ipairs(check and redis.call('XINFO', 'GROUPS', stream) or {}) do
  local group = map(flat)
  local why, id = need(group['name'], group['last-delivered-id'])
  if why then
    needed_by = needed_by + 1
    if needed_by <= 10 then
      needs[#needs + 1] = group['name']
      needs[#needs + 1] = why
      needs[#needs + 1] = id
    end
  end
end

local waiting = action == 'delete' and redis.call('XLEN', quarantine) or 0
local removed = 0
if action == 'entries' and not execute then
  for index = targets, #ARGV do if exists(ARGV[index]) then removed = removed + 1 end end
end
if execute and (force or needed_by + waiting == 0) then
  if action == 'trim' then
    removed = redis.call('XTRIM', stream, 'MINID', '=', boundary)
  elseif action == 'entries' then
    for index = targets, #ARGV do removed = removed + redis.call('XDEL', stream, ARGV[index]) end
  else
    removed = redis.call('XLEN', stream)
    for _, key in ipairs(KEYS) do redis.call('UNLINK', key) end
  end
end
return reply({removed = removed, needed_by = needed_by, needs = needs, waiting = waiting})
