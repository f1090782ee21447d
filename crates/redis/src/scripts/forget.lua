-- KEYS m, g and h, then for each its quota (u or y, or itself)   ARGV owner (0: all), then per key: token or nothing
-- the number deleted
local count, keys = 0, #KEYS / 2
for at = 1, keys do
  local key = KEYS[at]
  local v = redis.call('HMGET', key, 'w', 's', 't', 'e', 'z')
  local is_theirs = v[1] and (ARGV[1] == '0' or v[1] == ARGV[1])
  -- Skips an entry that has replaced it meanwhile.
  if is_theirs and v[2] ~= 'f' and v[2] ~= 'x' and (v[3] or '') == ARGV[at + 1] then
    count = count + redis.call('UNLINK', key)
    give_back(KEYS[keys + at], v[4], v[5])
  end
end
return count
