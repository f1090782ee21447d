-- KEYS m r u   ARGV token tenant      1 deleted | 0 another's, or in flight
local v = redis.call('HMGET', KEYS[1], 't', 's', 'q', 'e', 'z')
if v[1] ~= ARGV[1] or v[2] ~= 'k' then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
if v[3] == ARGV[2] then give_back(KEYS[3], v[4], v[5]) end
return 1
