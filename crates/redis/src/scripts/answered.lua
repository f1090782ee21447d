-- KEYS i k, and the k of invented tenants   ARGV payload conversation keep_ms most is_served
-- 1 done | 0 another message is the newest, or it was answered already
if redis.call('HGET', KEYS[1], 'f') ~= ARGV[1] then return 0 end
-- Keeps its name: another call of it may be in flight.
local done = redis.call('HSET', KEYS[1], 'a', 1)
local expires = redis.call('ZSCORE', KEYS[3], ARGV[2])
if ARGV[5] == '1' and expires then
  local keep_ms = tonumber(ARGV[3])
  local share = share_of(KEYS[2], KEYS[3], ARGV[2], true, tonumber(ARGV[4]), keep_ms)
  if share == KEYS[2] then count(share, KEYS[3], ARGV[2], expires, keep_ms) end
end
return done
