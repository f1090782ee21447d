-- KEYS n   ARGV payload     1 done | 0 another message is the newest
if redis.call('HGET', KEYS[1], 'f') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'f')
return 1
