local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
-- Stores until when a rate is taken, and when that was computed.
local function take(key, tat)
  redis.call('SET', key, string.format('%.0f %.0f', tat, now), 'PX', math.ceil((tat - now) / 1000))
end
-- Until when a rate is taken; earlier if this clock has gone back since that was stored.
local function taken(key)
  local tat, noted = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
  if not tat then return 0 end
  local back = noted - now
  if back <= 0 then return tonumber(tat) end
  take(key, tat - back)
  return tat - back
end
