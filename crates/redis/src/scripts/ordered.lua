-- KEYS o   ARGV keep_ms      {number, order, age_ms} | {}
local v = redis.call('HMGET', KEYS[1], 'n', 'w')
if not v[1] then return {} end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local t = redis.call('TIME')
return {tonumber(v[1]), v[2], math.max(t[1] * 1000 + math.floor(t[2] / 1000) - v[1], 0)}
