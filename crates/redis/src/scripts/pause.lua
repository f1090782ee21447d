-- KEYS w c   ARGV wait_ms message finds_out      1 done | 0 a longer pause is known
local left = paused(KEYS[1])
if left >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[3], 'PX', ARGV[1])
redis.call('PUBLISH', KEYS[2], ARGV[2])
return 1
