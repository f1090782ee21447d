-- KEYS n s c   ARGV payload remember_ms keep_ms message came_ms age_ms late_ms
-- came_ms: when it came, by this clock; 0: it came age_ms ago
-- {number, what, now, payloads that were superseded..}: 0 it is newer than all | 1 it is the newest, again
-- | 2 it was superseded | 3 it came before the newest, by came_ms
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function answer(number, what)
  local reply = {number, what, now}
  for _, payload in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do reply[#reply + 1] = payload end
  return reply
end
local function supersede(payload)
  redis.call('ZADD', KEYS[2], now, payload)
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -17)
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[2])
-- Those of a clock that has gone back since are remembered from now on.
for _, payload in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], string.format('(%.0f', now), '+inf')) do
  redis.call('ZADD', KEYS[2], now, payload)
end
local v = redis.call('HMGET', KEYS[1], 'n', 'f', 'b', 'a')
local last = tonumber(v[1] or 0)
local came, is_told = tonumber(ARGV[5]), ARGV[5] ~= '0'
if not is_told then came = now - ARGV[6] end
-- Told at once: messages that are have the order in which they arrive.
if now - came <= tonumber(ARGV[7]) then came = now end
-- No message is older than one that came at a time that this clock, which has gone back, has still before it.
local newest = tonumber(v[3] or 0)
local is_older = came < newest and newest <= now
-- Where it was answered, another call of it is under way; one that came later makes another message of it.
if v[2] == ARGV[1] and (is_older or not v[4]) then
  redis.call('HDEL', KEYS[1], 'a')
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return answer(last, 1)
end
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return {last, 2, now} end
if is_older then
  if is_told then return {last, 3, now} end
  supersede(ARGV[1])
  return {last, 2, now}
end
if v[2] and not v[4] then supersede(v[2]) end
-- Numbers go on where Redis has forgotten the last one.
local number = string.format('%.0f', math.max(now, last + 1))
redis.call('HSET', KEYS[1], 'n', number, 'f', ARGV[1], 'b', string.format('%.0f', came))
redis.call('HDEL', KEYS[1], 'a')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', KEYS[3], ARGV[4] .. number)
return answer(tonumber(number), 0)
