-- Shared by the scripts that hand out and settle work; put in front of them.
--
-- What became of the earlier deliveries of an entry that failed lies in a sorted set beside the stream, one
-- member each, all with the same score: "<entry ID>/<attempt, 7 digits> <JSON of the rest>". So those of an
-- entry are a range of names, in the order of attempts. They go when the entry is finished or dead-lettered.

local delivery_history = {}

-- The most deliveries that are remembered of an entry, the latest; and the most bytes of a reason.
local MOST_TRIES, MOST_REASON = 20, 200
-- As many deliveries as the 7 digits can tell, and as many as are believed: only another program can set a
-- counter beyond.
local MOST_ATTEMPT, MOST_DELIVERIES = 9999999, 2147483648
-- After so many ms without another failure the whole set goes, with what other programs finished meanwhile.
-- Longer than any retry can be put off.
local KEEP_TRIES = 60 * 86400 * 1000

function delivery_history.range(id)
  -- '0' follows '/': all names that begin with the ID and a slash.
  return '[' .. id .. '/', '(' .. id .. '0'
end

local function shortened(text)
  if #text <= MOST_REASON then return text end
  -- Not in the middle of a character: its bytes after the first are 128 to 191.
  return (string.gsub(string.sub(text, 1, MOST_REASON), '[\194-\244]?[\128-\191]*$', ''))
end

-- Notes how a delivery ended, in the place of what was noted of that delivery before.
-- held is the record in the pending entries list: {entry ID, consumer, idle time, deliveries}.
function delivery_history.remember(key, held, reason, now)
  local name = string.format('%s/%07d', held[1], math.min(held[4], MOST_ATTEMPT))
  redis.call('ZREMRANGEBYLEX', key, '[' .. name .. ' ', '(' .. name .. '!')
  local from, to = delivery_history.range(held[1])
  local known = redis.call('ZRANGEBYLEX', key, from, to)
  if #known >= MOST_TRIES then redis.call('ZREM', key, known[1]) end
  local what = {consumer = held[2], at = now}
  if reason ~= '' then what.reason = shortened(reason) end
  redis.call('ZADD', key, 0, name .. ' ' .. cjson.encode(what))
  redis.call('PEXPIRE', key, KEEP_TRIES)
end

-- Returns {{attempt, consumer, reason, at}, ...}, or nothing if there is nothing to tell. What cannot be read
-- is left out: it is a history, and must not be in the way of the entry.
function delivery_history.recall(key, id)
  local from, to = delivery_history.range(id)
  local told = {}
  for _, member in ipairs(redis.call('ZRANGEBYLEX', key, from, to)) do
    local attempt, text = string.match(member, '/(%d+) (.*)$')
    local readable, what = pcall(cjson.decode, text)
    if readable and type(what) == 'table' then
      local try = {attempt = tonumber(attempt)}
      for _, name in ipairs({'consumer', 'reason', 'at'}) do
        if type(what[name]) == 'string' or type(what[name]) == 'number' then try[name] = what[name] end
      end
      told[#told + 1] = try
    end
  end
  return #told > 0 and told or nil
end

function delivery_history.forget(key, id)
  local from, to = delivery_history.range(id)
  redis.call('ZREMRANGEBYLEX', key, from, to)
end

