-- KEYS m r, and u of the tenant and of strangers   ARGV token tenant strangers
-- 1 deleted | 0 another's, or in flight
local v = redis.call('HMGET', KEYS[1], 't', 's', 'q', 'e', 'z')
if v[1] ~= ARGV[1] or v[2] ~= 'k' then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
for i = 2, 3 do
  if v[3] == ARGV[i] then give_back(KEYS[i + 1], v[4], v[5]) end
end
return 1
