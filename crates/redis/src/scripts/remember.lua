-- KEYS g n y   ARGV answer age_ms ttl_ms tenant_bytes exact owner tenant     n is g if there is no normal form
-- 1 kept | -2 the tenant has no room
local t = redis.call('TIME')
local now, ttl = t[1] * 1000 + math.floor(t[2] / 1000), tonumber(ARGV[3])
-- With what Redis needs for its keys.
local cost = #ARGV[1] + 512
-- The tenant's bytes, by expiry.
local used, all = 0, redis.call('HGETALL', KEYS[3])
for i = 1, #all, 2 do
  if tonumber(all[i]) <= now then redis.call('HDEL', KEYS[3], all[i]) else used = used + all[i + 1] end
end
-- Replaces an earlier one.
local old = redis.call('HMGET', KEYS[1], 'e', 'z')
local freed = old[1] and redis.call('HEXISTS', KEYS[3], old[1]) == 1 and tonumber(old[2] or 0) or 0
if used - freed + cost > tonumber(ARGV[4]) then return -2 end
if freed > 0 then redis.call('HINCRBY', KEYS[3], old[1], -freed) end
-- Rounds expiry up, to at most 64 entries per time to live.
local width = 1
while width * 64 <= ttl do width = width * 2 end
local expires = math.ceil((now + ttl) / width) * width
local e = string.format('%.0f', expires)
redis.call('HINCRBY', KEYS[3], e, cost)
if redis.call('PTTL', KEYS[3]) < expires - now then redis.call('PEXPIRE', KEYS[3], expires - now) end
redis.call('HSET', KEYS[1], 'v', ARGV[1], 'b', now - ARGV[2], 'e', e, 'z', cost, 'w', ARGV[6], 'q', ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if KEYS[2] ~= KEYS[1] then redis.call('SET', KEYS[2], ARGV[5], 'PX', ARGV[3]) end
return 1
