-- KEYS rate.. w d   ARGV max_wait_us pause_us done_ms, then of each rate: cost_us burst_us level_us
-- {1, wait_us} all taken | {0, wait_us} none
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
-- Our own, whose reply was lost.
local done = redis.call('GET', KEYS[#KEYS])
if done then return {1, math.max(done - now, 0)} end
-- A process may know more of a pause than is known here.
local stop = math.max(redis.call('PTTL', KEYS[#KEYS - 1]) * 1000, tonumber(ARGV[2]), 0)
local tats, worst = {}, stop
for i = 1, #KEYS - 2 do
  local cost, burst = tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2])
  local room = math.max(burst - cost, 0)
  -- A process may know more of what is taken, too: answers tell of it.
  tats[i] = math.max(tonumber(redis.call('GET', KEYS[i]) or 0), now + ARGV[3 * i + 3])
  -- After a pause the rates are empty: calls start again one interval apart.
  if stop > 0 then tats[i] = math.max(tats[i], now + stop + room) end
  if cost > 0 then worst = math.max(worst, tats[i] - now - room) end
end
if worst > tonumber(ARGV[1]) then return {0, worst} end
for i = 1, #KEYS - 2 do
  -- It is sent then: those that come later are sent later.
  local cost, tat = tonumber(ARGV[3 * i + 1]), math.max(tats[i], now + worst)
  if cost > 0 then
    tat = tat + cost
    redis.call('SET', KEYS[i], string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000))
  end
end
redis.call('SET', KEYS[#KEYS], string.format('%.0f', now + worst), 'PX', ARGV[3])
return {1, worst}
