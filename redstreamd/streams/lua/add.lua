-- Adds entries all together, once per idempotency key, and trims the stream.
--
-- KEYS  1 the stream  2 the record of the idempotency key
-- ARGV  1 hash of the body ("": no key)  2 how long to keep the record, in ms
--       3 longest length of the stream ("": any)  4 oldest age of an entry in ms ("": any)
--       then for each entry the number of its fields and values, and those
-- Returns {1 if the key was known, {entry ID, ...}}, or {-1, {}} if the key was used with another body

local stream, record = KEYS[1], KEYS[2]
local hash, keep, max_length, max_age = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]

if hash ~= '' then
  local saved = redis.call('GET', record)
  if saved then
    local known, listed = string.match(saved, '^(%S+) (.*)$')
    local ids = {}
    for id in string.gmatch(listed, '%S+') do ids[#ids + 1] = id end
    if known ~= hash then return {-1, {}} end
    return {1, ids}
  end
end

local ids, at = {}, 5
while at <= #ARGV do
  local size = tonumber(ARGV[at])
  local add = {'XADD', stream, '*'}
  for index = at + 1, at + size do add[#add + 1] = ARGV[index] end
  ids[#ids + 1] = redis.call(unpack(add))
  at = at + size + 1
end
if max_length ~= '' then
  redis.call('XTRIM', stream, 'MAXLEN', '=', max_length)
end
if max_age ~= '' then
  local clock = redis.call('TIME')
  local oldest = clock[1] * 1000 + math.floor(clock[2] / 1000) - max_age
  redis.call('XTRIM', stream, 'MINID', '=', string.format('%.0f-0', oldest))
end
if hash ~= '' then
  redis.call('SET', record, hash .. ' ' .. table.concat(ids, ' '), 'PX', keep)
end
return {0, ids}
