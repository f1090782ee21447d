-- KEYS r c   ARGV offset bytes ttl_ms header
-- {receivers, length before} | {-1, length}: earlier bytes are lost, continue from there
local len = redis.call('STRLEN', KEYS[1])
if len < tonumber(ARGV[1]) then return {-1, len} end
if #ARGV[2] > 0 then redis.call('SETRANGE', KEYS[1], ARGV[1], ARGV[2]) end
-- Never shortens it: the answer may be kept.
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return {redis.call('PUBLISH', KEYS[2], ARGV[4] .. ARGV[2]), len}
