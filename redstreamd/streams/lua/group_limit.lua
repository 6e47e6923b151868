-- The limit of deliveries of a group: field `max_deliveries` of the group's hash. After so many deliveries an entry
-- is dead-lettered; 0 for never. A group without the field has the daemon's setting.

-- Returns the group's limit; the default where none was set, or where another program wrote an invalid one.
local function limit_of_group(group_hash, default)
  local kept = tonumber(redis.call('HGET', group_hash, 'max_deliveries') or nil)
  if kept and kept >= 0 and kept <= 1000000 and kept % 1 == 0 then return kept end
  return default
end

