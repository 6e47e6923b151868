-- Returns an XINFO reply, a flat list of names and values, as a table.
local function map(flat)
  local values = {}
  for index = 1, #flat, 2 do values[flat[index]] = flat[index + 1] end
  return values
end

