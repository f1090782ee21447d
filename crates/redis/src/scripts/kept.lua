-- KEYS m, g and h   ARGV owner (0: all)      {place, token or nothing, tenant or nothing, ..} of this owner's entries
local theirs = {}
for place, key in ipairs(KEYS) do
  local v = redis.call('HMGET', key, 'w', 's', 't', 'q')
  local is_theirs = v[1] and (ARGV[1] == '0' or v[1] == ARGV[1])
  -- Calls in flight continue.
  if is_theirs and v[2] ~= 'f' and v[2] ~= 'x' then
    theirs[#theirs + 1] = place
    theirs[#theirs + 1] = v[3] or ''
    theirs[#theirs + 1] = v[4] or ''
  end
end
return theirs
