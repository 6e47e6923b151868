-- Reads the counters of a stream that say how much there is to do. The reply is empty if there is no such stream.
--
-- KEYS stream
-- ARGV max_groups:int
-- REPLY length:int added:int groups:int pending:int lag:int
--
-- max_groups  of more groups, pending and lag are left out
-- added       entries ever added; the length where the server does not tell
-- pending     entries delivered and not acknowledged, of all groups together
-- lag         the same for those not delivered, as far as the server knows

if redis.call('TYPE', stream).ok ~= 'stream' then return {} end
local info = map(redis.call('XINFO', 'STREAM', stream))
local pending, lag = 0, 0
if info['groups'] > 0 and info['groups'] <= max_groups then
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = map(flat)
    pending = pending + group['pending']
    lag = lag + (group['lag'] or 0)
  end
end
return reply({
  length = info['length'], added = info['entries-added'] or info['length'], groups = info['groups'],
  pending = pending, lag = lag,
})
