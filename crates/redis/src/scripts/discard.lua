-- KEYS m r u   ARGV token tenant      1 deleted | 0 another's, or in flight
local v = redis.call('HMGET', KEYS[1], 't', 's')
if v[1] ~= ARGV[1] or v[2] ~= 'k' then return 0 end
if redis.call('HGET', KEYS[1], 'q') == ARGV[2] then give_back(KEYS[3], KEYS[1]) end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
