-- KEYS rate.. w   ARGV max_wait_us pause_us, then of each rate: cost_us burst_us     {1, wait_us} all taken | {0, wait_us} none
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
-- A process may know more of a pause than is known here.
local stop = math.max(redis.call('PTTL', KEYS[#KEYS]) * 1000, tonumber(ARGV[2]), 0)
local tats, worst = {}, stop
for i = 1, #KEYS - 1 do
  local cost, burst = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  local room = math.max(burst - cost, 0)
  tats[i] = math.max(tonumber(redis.call('GET', KEYS[i]) or 0), now)
  -- After a pause the rates are empty: calls start again one interval apart.
  if stop > 0 then tats[i] = math.max(tats[i], now + stop + room) end
  if cost > 0 then worst = math.max(worst, tats[i] - now - room) end
end
if worst > tonumber(ARGV[1]) then return {0, worst} end
for i = 1, #KEYS - 1 do
  -- It is sent then: those that come later are sent later.
  local cost, tat = tonumber(ARGV[2 * i + 1]), math.max(tats[i], now + worst)
  if cost > 0 then
    tat = tat + cost
    redis.call('SET', KEYS[i], string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000))
  end
end
return {1, worst}
