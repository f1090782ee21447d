-- KEYS m r   ARGV token window_ms length      window 0: free the key
-- 1 done | 0 it is another's | -1 the log is not whole
local v = redis.call('HMGET', KEYS[1], 't', 's')
if v[1] ~= ARGV[1] then return 0 end
if v[2] == 'k' then return ARGV[2] == '0' and 0 or 1 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) return 1 end
if redis.call('STRLEN', KEYS[2]) ~= tonumber(ARGV[3]) then return -1 end
redis.call('HSET', KEYS[1], 's', 'k')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
