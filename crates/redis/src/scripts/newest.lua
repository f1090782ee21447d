-- KEYS n s c   ARGV payload remember_ms keep_ms message
-- {number, 0 it is newer than all | 1 it is the newest, again | 2 it was superseded}
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local v = redis.call('HMGET', KEYS[1], 'n', 'f')
if v[2] == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {tonumber(v[1]), 1}
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[2])
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
return {number, 0}
