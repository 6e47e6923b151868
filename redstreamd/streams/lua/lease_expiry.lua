-- When entries may be taken again; needs clock.lua and due_members.lua.

local ttl_set = false

-- After a due time was set.
local function keep(due_set)
  -- Once a script: none removes the last member after it wrote one.
  if ttl_set then return end
  ttl_set = true
  redis.call('PEXPIRE', due_set, KEEP_CLOCK)
  clock.save()
end

-- Sets when entries that consumers hold may be taken again: {time, member, ...}.
local function set_all_due(due_set, times)
  redis.call('ZADD', due_set, unpack(times))
  keep(due_set)
end

-- Sets when an entry may be taken again. Until then its consumer holds it, unless it was returned.
local function set_due(due_set, at, member, returned)
  if returned then
    redis.call('ZADD', due_set, at - 0.5, member, at, MARK .. member)
  else
    redis.call('ZADD', due_set, at, member)
  end
  keep(due_set)
end

