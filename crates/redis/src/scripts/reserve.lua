-- KEYS rate.. w d   ARGV max_wait_us pause_us done_ms, then per rate: cost_us burst_us level_us
-- {1, wait_us} all taken | {0, wait_us} none
-- This process's own, whose reply was lost.
local at, waits = string.match(redis.call('GET', KEYS[#KEYS]) or '', '^(%d+) (%d+)$')
if at then return {1, math.min(math.max(at - now, 0), tonumber(waits))} end
-- A process may know of a longer pause.
local left = paused(KEYS[#KEYS - 1])
local stop = math.max(left * 1000, tonumber(ARGV[2]))
local tats, worst = {}, stop
for i = 1, #KEYS - 2 do
  local cost, burst = tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2])
  local room = math.max(burst - cost, 0)
  -- A process may also know of more use, from answers.
  tats[i] = math.max(taken(KEYS[i]), now + ARGV[3 * i + 3])
  -- After a pause nothing is available at once: calls start one interval apart.
  if stop > 0 then tats[i] = math.max(tats[i], now + stop + room) end
  if cost > 0 then worst = math.max(worst, tats[i] - now - room) end
end
if worst > tonumber(ARGV[1]) then return {0, worst} end
for i = 1, #KEYS - 2 do
  -- The call is sent then: later calls are sent later.
  local cost, tat = tonumber(ARGV[3 * i + 1]), math.max(tats[i], now + worst)
  if cost > 0 then take(KEYS[i], tat + cost) end
end
redis.call('SET', KEYS[#KEYS], string.format('%.0f %.0f', now + worst, worst), 'PX', ARGV[3])
return {1, worst}
