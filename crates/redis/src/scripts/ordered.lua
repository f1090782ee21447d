-- KEYS o   ARGV keep_ms      {number, order} | {}
local v = redis.call('HMGET', KEYS[1], 'n', 'w')
if not v[1] then return {} end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {tonumber(v[1]), v[2]}
