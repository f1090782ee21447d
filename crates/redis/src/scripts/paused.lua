-- The rest of a limit's pause in ms, at most as long as written, in case this clock has gone back; and whether a call
-- probes then (1).
local function paused(key)
  local left = redis.call('PTTL', key)
  if left <= 0 then return 0, 0 end
  local wait, finds_out = string.match(redis.call('GET', key), '^(%d+) (%d)$')
  wait = tonumber(wait)
  if left > wait then redis.call('PEXPIRE', key, wait) end
  return math.min(left, wait), tonumber(finds_out)
end
