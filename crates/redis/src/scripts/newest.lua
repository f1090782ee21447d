-- KEYS n s c   ARGV payload remember_ms keep_ms message
-- {number, 0 it is newer than all | 1 it is the newest, again | 2 it was superseded, payloads that were superseded..}
local function answer(number, what)
  local reply = {number, what}
  for _, payload in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do reply[#reply + 1] = payload end
  return reply
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[2])
local v = redis.call('HMGET', KEYS[1], 'n', 'f')
if v[2] == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return answer(tonumber(v[1]), 1)
end
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return {tonumber(v[1] or 0), 2} end
-- One that was answered is not there any more.
if v[2] then
  redis.call('ZADD', KEYS[2], now, v[2])
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -17)
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
local number = redis.call('HINCRBY', KEYS[1], 'n', 1)
redis.call('HSET', KEYS[1], 'f', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', KEYS[3], ARGV[4] .. number)
return answer(number, 0)
