-- KEYS b l   ARGV token lease_ms   -> {1, unanswered probes so far} | {0, ms to wait}
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local u = tonumber(redis.call('HGET', KEYS[1], 'u') or 0)
if u > now then return {0, u - now} end
-- Our own, whose reply was lost.
if redis.call('GET', KEYS[2]) == ARGV[1] or redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return {1, tonumber(redis.call('HGET', KEYS[1], 'n') or 0)}
end
return {0, redis.call('PTTL', KEYS[2])}
