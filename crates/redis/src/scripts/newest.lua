-- KEYS i s c k   ARGV payload remember_ms keep_ms message came_ms age_ms late_ms known most
-- came_ms: when it came, by this clock; 0: it came age_ms ago
-- {number, what, now, superseded payloads..}: 0 newest, new | 1 newest, repeated | 2 superseded
-- | 3 older than the newest, by came_ms | 4 the tenant has no room for another conversation
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
-- If this clock has gone back, the tenant's conversations are counted anew.
if redis.call('PTTL', KEYS[4]) > tonumber(ARGV[3]) then redis.call('UNLINK', KEYS[4]) end
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
local conversation = string.sub(ARGV[4], 1, 32)
local is_known = redis.call('ZSCORE', KEYS[4], conversation) or redis.call('EXISTS', KEYS[1]) == 1
if not is_known and redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[9]) then return {0, 4, now} end
local function keep()
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  redis.call('ZADD', KEYS[4], now + ARGV[3], conversation)
  redis.call('PEXPIRE', KEYS[4], ARGV[3])
end
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
-- Entries from before this clock went back are kept from now on.
for _, payload in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], string.format('(%.0f', now), '+inf')) do
  redis.call('ZADD', KEYS[2], now, payload)
end
local v = redis.call('HMGET', KEYS[1], 'n', 'f', 'b', 'a')
local last = tonumber(v[1] or 0)
local came, is_told = tonumber(ARGV[5]), ARGV[5] ~= '0'
if not is_told then came = now - ARGV[6] end
-- Reported at once: such messages have the order of arrival.
if now - came <= tonumber(ARGV[7]) then came = now end
-- If the newest's time is in the future, this clock has gone back: no message counts as older.
local newest = tonumber(v[3] or 0)
local is_older = came < newest and newest <= now
-- If it was answered, another call of it is in flight; a later arrival makes it another message.
if v[2] == ARGV[1] and (is_older or not v[4]) then
  redis.call('HDEL', KEYS[1], 'a')
  keep()
  return answer(last, 1)
end
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return {last, 2, now} end
if is_older then
  if is_told then return {last, 3, now} end
  supersede(ARGV[1])
  return {last, 2, now}
end
if v[2] and not v[4] then supersede(v[2]) end
-- Numbers continue if Redis has lost the last one. They stay above the one that the process knows (known), even if this clock has
-- gone back.
local number = string.format('%.0f', math.max(now, last + 1, ARGV[8] + 1))
redis.call('HSET', KEYS[1], 'n', number, 'f', ARGV[1], 'b', string.format('%.0f', came))
redis.call('HDEL', KEYS[1], 'a')
keep()
redis.call('PUBLISH', KEYS[3], ARGV[4] .. number)
return answer(tonumber(number), 0)
