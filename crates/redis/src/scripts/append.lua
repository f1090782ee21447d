-- KEYS r c q z   ARGV offset bytes ttl_ms header token tenant_bytes
-- {receivers, length before} | {-1, length}: earlier bytes are lost, continue from there | {-2, length}: no room
local len, offset, ttl = redis.call('STRLEN', KEYS[1]), tonumber(ARGV[1]), tonumber(ARGV[3])
if len < offset then return {-1, len} end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if #ARGV[2] > 0 then
  uncount_expired(KEYS[3], KEYS[4], now)
  local bytes = math.max(len, offset + #ARGV[2])
  if not count(KEYS[3], KEYS[4], ARGV[5], bytes, now + ttl, ttl, tonumber(ARGV[6])) then return {-2, len} end
  redis.call('SETRANGE', KEYS[1], ARGV[1], ARGV[2])
elseif tonumber(redis.call('ZSCORE', KEYS[3], ARGV[5]) or 0) > now then
  -- A sign of life needs no memory, and passes when there is none. The log of a kept answer counts there.
  redis.pcall('ZADD', KEYS[3], 'GT', now + ttl, ARGV[5])
  for _, key in ipairs({KEYS[3], KEYS[4]}) do
    if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
  end
end
-- Never shortens it: the answer may be kept.
if redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
return {redis.call('PUBLISH', KEYS[2], ARGV[4] .. ARGV[2]), len}
