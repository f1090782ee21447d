-- KEYS i s c k, and the k of invented tenants   ARGV payload remember_ms keep_ms message came_ms age_ms late_ms known most is_served
-- came_ms: when it came, by this clock; 0: it came age_ms ago
-- {number, what, now, superseded payloads..}: 0 newest, new | 1 newest, repeated | 2 superseded
-- | 3 older than the newest, by came_ms | 4 the tenant has no room for another conversation
local conversation, keep_ms, is_served = string.sub(ARGV[4], 1, 32), tonumber(ARGV[3]), ARGV[10] == '1'
local share = share_of(KEYS[4], KEYS[5], conversation, is_served, tonumber(ARGV[9]), keep_ms)
if not share then
  if redis.call('EXISTS', KEYS[1]) == 0 then return {0, 4, now} end
  share = is_served and KEYS[4] or KEYS[5]
end
local function keep()
  redis.call('PEXPIRE', KEYS[1], keep_ms)
  count(share, KEYS[5], conversation, now + keep_ms, keep_ms)
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
local came, is_known = tonumber(ARGV[5]), ARGV[5] ~= '0'
if not is_known then came = now - ARGV[6] end
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
  if is_known then return {last, 3, now} end
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
