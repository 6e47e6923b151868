-- Reads new entries of a group for a consumer, up to a number and a size, but at least one if there is any.
--
-- ARGV count:int lease_ms:int max_bytes:int batch:int
--
-- count     most entries to take
-- lease_ms  how long nobody else gets them
-- max_bytes content after which no further entry is taken
-- batch     new entries to read at once at first

-- New entries read at once at most, which bounds what has to be given back.
local MAX_BATCH = 10
-- Content that several takes get together before no further one begins: so long Redis serves nobody else.
local MAX_TOGETHER = 1048576

local bytes_left, largest, content = max_bytes, 0, 0

local function count_bytes(entry)
  local values, size = entry[2], 0
  -- Without ipairs, which calls a function for each value.
  for each = 1, #values do size = size + #values[each] end
  bytes_left, content = bytes_left - size, content + size
  if size > largest then largest = size end
end

-- Gives entries back to the group as if they had not been read: those after `last`. Returns false if that is not
-- possible. Their places in the pending entries list go last, so that a refusal loses nothing.
local function give_back(stream, group, entries, last)
  local ids = {}
  for index = last + 1, #entries do ids[#ids + 1] = entries[index][1] end
  local position, counter, moved = entries[last][1], nil, nil
  local groups = redis.pcall('XINFO', 'GROUPS', stream) -- optional
  for _, flat in ipairs(groups.err and {} or groups) do
    for index = 1, flat[2] == group and #flat or 0, 2 do
      if flat[index] == 'entries-read' then counter = flat[index + 1] end
    end
  end
  if counter then
    moved = redis.pcall('XGROUP', 'SETID', stream, group, position, 'ENTRIESREAD', counter - #ids) -- optional
  else
    moved = redis.pcall('XGROUP', 'SETID', stream, group, position) -- optional
  end
  if moved.err then return false end
  redis.pcall('XACK', stream, group, unpack(ids)) -- optional
  return true
end

-- Returns up to `wanted` new entries for each of so many takes, and {due time, member, ...} of those that are not in
-- `claimed`, which may be nil; then how many there are for each take, as far as any is left and they are not too large
-- together. nil and the error if Redis refused to read any.
-- Each may be huge, and what was read is delivered. So one is read at a time until their size is known; then several,
-- because each read looks for its place in the stream. What is too much is given back, which is possible in a stream
-- with few groups.
local function read_new(stream, group, consumer, wanted, takes, due_at, claimed, has_few_groups)
  local new, due, shares, share = {}, {}, {}, 0
  -- As text: Redis takes as long to make one of a large number as for a small command.
  local due_text = string.format('%.0f', due_at)
  -- One if it is not known how large they are, or if they are large.
  if batch > 1 then batch = batch * takes end
  while wanted > 0 and bytes_left > 0 and #shares < takes do
    local most = wanted * (takes - #shares) - share
    local size = has_few_groups and math.max(1, math.min(most, batch, MAX_BATCH)) or 1
    local read = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', size, 'STREAMS', stream, '>')
    if read and read.err then
      if #new == 0 then return nil, read end
      break
    end
    local entries, keep_all = read and read[1][2] or {}, false
    -- The group was set back, and an entry is leased by this call.
    for index = 1, claimed and #entries or 0 do keep_all = keep_all or claimed[entries[index][1]] end
    for index = 1, #entries do
      local entry = entries[index]
      if #shares == takes and not keep_all then
        if give_back(stream, group, entries, index - 1) then break end
        keep_all = true
      end
      new[#new + 1] = entry
      if not (claimed and claimed[entry[1]]) then
        count_bytes(entry)
        due[#due + 1], due[#due + 2] = due_text, entry[1] .. '/1'
      end
      if #shares == takes then
        shares[takes] = shares[takes] + 1
      else
        share = share + 1
        if share == wanted or bytes_left <= 0 then
          shares[#shares + 1] = share
          if content >= MAX_TOGETHER then takes = #shares end
          if #shares < takes then share, bytes_left = 0, max_bytes end
        end
      end
    end
    if #entries < size then break end
    local left = bytes_left + (takes - #shares - 1) * max_bytes
    local room = math.max(bytes_left, MAX_TOGETHER - content)
    batch = math.floor(math.min(left, room) / math.max(largest, 1))
  end
  if #shares < takes and share > 0 then shares[#shares + 1] = share end
  return new, due, shares
end
