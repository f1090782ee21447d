-- KEYS m   ARGV payload token owner lease_ms
-- {1} lead | {0, token, owner, age, ttl, kept} mismatch | {2 follow, 3 replay or 4 outgrown, token, owner, age, ttl}
local v = redis.call('HMGET', KEYS[1], 'p', 't', 's', 'o', 'b', 'l')
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if not v[2] then
  redis.call('HSET', KEYS[1], 'p', ARGV[1], 't', ARGV[2], 's', 'f', 'o', ARGV[3], 'b', now, 'l', ARGV[4])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return {1}
end
local age, ttl = math.max(now - v[5], 0), redis.call('PTTL', KEYS[1])
-- At most its lease from now, in case this clock has gone back.
if v[6] and ttl > tonumber(v[6]) then
  ttl = tonumber(v[6])
  redis.call('PEXPIRE', KEYS[1], ttl)
end
if v[1] ~= ARGV[1] then return {0, v[2], v[4], age, ttl, v[3] == 'k' and 1 or 0} end
-- This process's own, whose reply was lost.
if v[2] == ARGV[2] and v[3] ~= 'k' then return {1} end
return {({f = 2, k = 3, x = 4})[v[3]], v[2], v[4], age, ttl}
