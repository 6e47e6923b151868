-- Whose a consumer is: field `consumer <name>` of the group's hash holds the principal that first took entries under
-- the name. To other principals the name is free; it stands for the consumer `alias` then.
--
-- ARGV owner former alias
--
-- owner  the principal
-- former what it was called before; empty if nothing else. Such a record is renewed under its name
-- alias  its own consumer where the name is another's; equal to the consumer where the name itself says whose it is

-- A Redis user of the original Red-Stream may lack the rights to the hash; then nothing is known of owners.

local consumer_owner = {}

-- Time to live of the hash in ms; see clock.lua.
local KEEP_OWNER = 90 * 86400 * 1000

-- Returns the principal's consumer of a name, and the field that has to be set then, if any.
function consumer_owner.find(group_hash, consumer)
  if consumer == alias then return consumer end
  local field = 'consumer ' .. consumer
  local by = redis.pcall('HGET', group_hash, field) -- optional
  if by == owner or type(by) == 'table' then return consumer end
  if by and by ~= former then return alias end
  return consumer, field
end

-- Records that the principal has a consumer; raises no error.
function consumer_owner.record(group_hash, field)
  if redis.pcall('HSET', group_hash, field, owner) == 1 then -- optional
    local limited = redis.pcall('HEXISTS', group_hash, 'max_deliveries') -- optional
    if limited == 0 then redis.pcall('PEXPIRE', group_hash, KEEP_OWNER) end -- optional
  end
end

