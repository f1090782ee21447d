-- How long the calls of a limit are paused still, in ms: no longer than it was written, also where this clock has gone back.
local function paused(key)
  local left = redis.call('PTTL', key)
  if left <= 0 then return 0 end
  local longest = tonumber(redis.call('GET', key))
  if left > longest then redis.call('PEXPIRE', key, longest) end
  return math.min(left, longest)
end
