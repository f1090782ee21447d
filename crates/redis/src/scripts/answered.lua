-- KEYS n   ARGV payload     1 done | 0 another message is the newest, or it was answered already
if redis.call('HGET', KEYS[1], 'f') ~= ARGV[1] then return 0 end
-- Keeps its name: another call of it may be in flight.
return redis.call('HSET', KEYS[1], 'a', 1)
