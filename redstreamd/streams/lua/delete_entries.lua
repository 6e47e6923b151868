-- Removes entries from a stream, unless a group still needs one of them.
--
-- KEYS  1 the stream, then for delete further keys that go with it
-- ARGV  1 trim | entries | delete  2 "1" to do it, "" to only look  3 "1" to do it whatever groups need
--       4 for trim the ID below which entries go; for entries their IDs, in this and the following
-- Returns {entries removed, groups that need some, {group, "pending" | "unread", ID of the first, ...} of
--          the first ten of these}; nothing is removed if there are any and it is not forced. For entries
--          that are only looked at, how many of them there are instead of how many were removed

local stream, action, really, force = KEYS[1], ARGV[1], ARGV[2] == '1', ARGV[3] == '1'

-- The most pending entries that are tried, of one group and of all together: more that lie below the cut
-- and whose content is gone count as needed, to be on the safe side.
local TRIED, looks = 100, 5000

local function map(flat)
  local values = {}
  for index = 1, #flat, 2 do values[flat[index]] = flat[index + 1] end
  return values
end

local function exists(id)
  return redis.call('XRANGE', stream, id, id)[1] ~= nil
end

local function pending_between(group, from, to)
  local tried = math.min(TRIED, looks)
  -- One more than is tried: it counts as needed.
  local held = redis.call('XPENDING', stream, group, from, to, tried + 1)
  for index = 1, math.min(#held, tried) do
    looks = looks - 1
    if exists(held[index][1]) then return held[index][1] end
  end
  return #held > tried and held[1][1] or nil
end

local function unread_between(delivered, to)
  -- Redis refuses a range that begins beyond the greatest ID.
  if delivered == LAST_PART .. '-' .. LAST_PART then return nil end
  local after = redis.call('XRANGE', stream, '(' .. delivered, to, 'COUNT', 1)[1]
  return after and after[1] or nil
end

-- Returns why the group needs one of the entries in question, and which.
local function need(group, delivered)
  if action ~= 'entries' then
    local to = action == 'trim' and '(' .. ARGV[4] or '+'
    local held = pending_between(group, '-', to)
    if held then return 'pending', held end
    if action == 'delete' or beyond(ARGV[4], delivered) then
      local unread = unread_between(delivered, to)
      if unread then return 'unread', unread end
    end
    return nil
  end
  for index = 4, #ARGV do
    local id = ARGV[index]
    if exists(id) then
      if beyond(id, delivered) then return 'unread', id end
      if #redis.call('XPENDING', stream, group, id, id, 1) > 0 then return 'pending', id end
    end
  end
end

local needed, listed = 0, {}
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = map(flat)
  local why, id = need(group['name'], group['last-delivered-id'])
  if why then
    needed = needed + 1
    if needed <= 10 then
      listed[#listed + 1] = group['name']
      listed[#listed + 1] = why
      listed[#listed + 1] = id
    end
  end
end

local removed = 0
if action == 'entries' and not really then
  for index = 4, #ARGV do if exists(ARGV[index]) then removed = removed + 1 end end
end
if really and (force or needed == 0) then
  if action == 'trim' then
    removed = redis.call('XTRIM', stream, 'MINID', '=', ARGV[4])
  elseif action == 'entries' then
    for index = 4, #ARGV do removed = removed + redis.call('XDEL', stream, ARGV[index]) end
  else
    removed = redis.call('XLEN', stream)
    for _, key in ipairs(KEYS) do redis.call('UNLINK', key) end
  end
end
return {removed, needed, listed}
