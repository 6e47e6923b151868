-- Describes a stream, without content of entries. The reply is empty if there is no such key, and what the server
-- does not tell is empty in it.
--
-- KEYS stream
-- REPLY now:int length:int groups:int first_id:text newest_id:text last_id:text added:int deleted_id:text memory_bytes:int
--
-- last_id    the last ID ever generated
-- added      entries ever added
-- deleted_id the greatest ID ever deleted

local info = redis.pcall('XINFO', 'STREAM', stream)
if info.err then
  if redis.call('EXISTS', stream) == 0 then return {} end
  return info
end
local values = map(info)

-- MEMORY USAGE looks at each group and each consumer.
local MOST_GROUPS, MOST_CONSUMERS = 64, 1000
local function memory_usage()
  if values['groups'] > MOST_GROUPS then return nil end
  local groups = values['groups'] > 0 and redis.pcall('XINFO', 'GROUPS', stream) or {} -- optional
  local consumers = 0
  if not groups.err then
    for _, group in ipairs(groups) do consumers = consumers + group[4] end
  end
  -- The user may lack the right to this command.
  return consumers <= MOST_CONSUMERS and redis.pcall('MEMORY', 'USAGE', stream) -- optional
end
local memory = memory_usage()
local clock = redis.call('TIME')
local deleted_id = values['max-deleted-entry-id']
return reply({
  now = clock[1] * 1000 + math.floor(clock[2] / 1000), length = values['length'], groups = values['groups'],
  first_id = values['first-entry'] and values['first-entry'][1],
  newest_id = values['last-entry'] and values['last-entry'][1], last_id = values['last-generated-id'],
  added = values['entries-added'], deleted_id = deleted_id ~= '0-0' and deleted_id,
  memory_bytes = type(memory) == 'number' and memory,
})
