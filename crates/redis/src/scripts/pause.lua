-- KEYS w c   ARGV wait_ms message      1 done | 0 it is paused for longer
if paused(KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[1])
redis.call('PUBLISH', KEYS[2], ARGV[2])
return 1
