-- KEYS m, g and h   ARGV owner (0: all), then per key: token or nothing      the number deleted
local count = 0
for at, key in ipairs(KEYS) do
  local v = redis.call('HMGET', key, 'w', 's', 't')
  local is_theirs = v[1] and (ARGV[1] == '0' or v[1] == ARGV[1])
  -- Skips an entry that has replaced it meanwhile.
  if is_theirs and v[2] ~= 'f' and v[2] ~= 'x' and (v[3] or '') == ARGV[at + 1] then
    count = count + redis.call('UNLINK', key)
  end
end
return count
