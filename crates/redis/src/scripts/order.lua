-- KEYS o c   ARGV order number keep_ms circuit process age_ms, and of a new one: late_ms known id
-- number 0: a new order, given age_ms ago; else one that a process obeys, given then or earlier, repeated in case it was lost here
-- {number, order, age_ms}: the order that holds
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local v = redis.call('HMGET', KEYS[1], 'n', 'w', 'd')
local held, number, kind, age = tonumber(v[1] or 0), tonumber(ARGV[2]), 'again', tonumber(ARGV[6])
if number == 0 then
  -- A repetition, whose reply was lost.
  local seen = v[3] or ''
  if string.find(seen, ARGV[9], 1, true) then return {held, v[2], math.max(now - held, 0)} end
  redis.call('HSET', KEYS[1], 'd', string.sub(seen .. ARGV[9], -256))
  kind = 'order'
  -- Above the number of the order that its process obeyed, even if this clock has gone back.
  number = math.max(now - age, ARGV[8] + 1)
  -- It was sent at once; or the other one's time is further ahead than this one is old: the clock has gone back since, and
  -- does not tell which came first.
  if age <= tonumber(ARGV[7]) or held - now > age then number = math.max(number, now, held + 1) end
end
if number <= held then return {held, v[2], math.max(now - held, 0)} end
redis.call('HSET', KEYS[1], 'n', string.format('%.0f', number), 'w', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', KEYS[2], string.format('%s %s %.0f %s %.0f %s', ARGV[4], kind, number, ARGV[1], age, ARGV[5]))
return {number, ARGV[1], age}
