-- KEYS m   ARGV token lease_ms
local v = redis.call('HMGET', KEYS[1], 't', 's')
if v[1] ~= ARGV[1] or v[2] == 'k' then return 0 end
redis.call('HSET', KEYS[1], 'l', ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
