-- KEYS h   ARGV answer age_ms ttl_ms owner state (f in flight, e ended)      1
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('HSET', KEYS[1], 'a', ARGV[1], 'b', now - ARGV[2], 'w', ARGV[4], 's', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
