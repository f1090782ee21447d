-- KEYS g      {answer, age_ms} | {}
local v = redis.call('HMGET', KEYS[1], 'v', 'b')
if not v[1] then return {} end
local t = redis.call('TIME')
return {v[1], math.max(t[1] * 1000 + math.floor(t[2] / 1000) - v[2], 0)}
