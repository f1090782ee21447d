-- KEYS m r   ARGV token      1 it is gone | 0 it is another's, or under way
local v = redis.call('HMGET', KEYS[1], 't', 's')
if v[1] ~= ARGV[1] or v[2] ~= 'k' then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
