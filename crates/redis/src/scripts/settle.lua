-- KEYS m r u c q z, q and z of zeros   ARGV token window_ms length tenant_bytes owner tenant      window 0: free the key
-- 1 done | 0 another's | -1 the log is incomplete | -2 the tenant has no room
local v = redis.call('HMGET', KEYS[1], 't', 's')
if v[1] ~= ARGV[1] then return 0 end
if v[2] == 'k' then return ARGV[2] == '0' and 0 or 1 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) return 1 end
if redis.call('STRLEN', KEYS[2]) ~= tonumber(ARGV[3]) then return -1 end
local t = redis.call('TIME')
local now, window = t[1] * 1000 + math.floor(t[2] / 1000), tonumber(ARGV[2])
-- With what Redis needs for its keys.
local cost = tonumber(ARGV[3]) + 512
local function uncount_log()
  uncount(KEYS[5], KEYS[6], ARGV[1])
  -- What it counted there before the upstream answered with a success.
  uncount(KEYS[7], KEYS[8], ARGV[1])
end
-- The tenant's bytes, by expiry.
local used, all = 0, redis.call('HGETALL', KEYS[3])
for i = 1, #all, 2 do
  if tonumber(all[i]) <= now then redis.call('HDEL', KEYS[3], all[i]) else used = used + all[i + 1] end
end
if used + cost > tonumber(ARGV[4]) then
  -- Those who still read it find its end.
  if tonumber(redis.call('PUBSUB', 'NUMSUB', KEYS[4])[2]) == 0 then
    redis.call('DEL', KEYS[2])
    uncount_log()
  end
  return -2
end
uncount_log()
-- Rounds expiry up, to at most 64 entries per window.
local width = 1
while width * 64 <= window do width = width * 2 end
local expires = math.ceil((now + window) / width) * width
local e = string.format('%.0f', expires)
redis.call('HINCRBY', KEYS[3], e, cost)
if redis.call('PTTL', KEYS[3]) < expires - now then redis.call('PEXPIRE', KEYS[3], expires - now) end
redis.call('HSET', KEYS[1], 's', 'k', 'w', ARGV[5], 'l', window, 'e', e, 'z', cost, 'q', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
