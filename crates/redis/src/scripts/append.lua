-- KEYS r c q z   ARGV offset bytes ttl_ms header token tenant_bytes
-- {receivers, length before} | {-1, length}: earlier bytes are lost, continue from there | {-2, length}: no room
local len, offset, ttl = redis.call('STRLEN', KEYS[1]), tonumber(ARGV[1]), tonumber(ARGV[3])
if len < offset then return {-1, len} end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
uncount_expired(KEYS[3], KEYS[4], now)
-- The log of a kept answer counts there.
if #ARGV[2] > 0 or redis.call('HEXISTS', KEYS[4], ARGV[5]) == 1 then
  local bytes = math.max(len, offset + #ARGV[2])
  if not count(KEYS[3], KEYS[4], ARGV[5], bytes, now + ttl, ttl, tonumber(ARGV[6])) then return {-2, len} end
end
if #ARGV[2] > 0 then redis.call('SETRANGE', KEYS[1], ARGV[1], ARGV[2]) end
-- Never shortens it: the answer may be kept.
if redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
return {redis.call('PUBLISH', KEYS[2], ARGV[4] .. ARGV[2]), len}
