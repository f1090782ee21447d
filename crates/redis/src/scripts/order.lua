-- KEYS o c   ARGV order number keep_ms circuit process      number 0: a new one; else one that may have been forgotten
-- {number, order}: what holds
local v = redis.call('HMGET', KEYS[1], 'n', 'w')
local held, number = tonumber(v[1] or 0), tonumber(ARGV[2])
if number == 0 then
  -- Numbers go on where Redis has forgotten the last one.
  local t = redis.call('TIME')
  number = math.max(t[1] * 1000 + math.floor(t[2] / 1000), held + 1)
elseif number <= held then
  return {held, v[2]}
end
redis.call('HSET', KEYS[1], 'n', string.format('%.0f', number), 'w', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', KEYS[2], string.format('%s order %.0f %s %s', ARGV[4], number, ARGV[1], ARGV[5]))
return {number, ARGV[1]}
