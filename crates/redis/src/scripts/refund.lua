-- KEYS rate.. d   ARGV done_ms, then of each rate: what more it takes in us, or less      1 done | 0 it was done before
if not redis.call('SET', KEYS[#KEYS], '0', 'NX', 'PX', ARGV[1]) then return 0 end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
for i = 1, #KEYS - 1 do
  local tat = math.max(tonumber(redis.call('GET', KEYS[i]) or 0), now) + tonumber(ARGV[i + 1])
  if tat > now then
    redis.call('SET', KEYS[i], string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000))
  else
    redis.call('DEL', KEYS[i])
  end
end
return 1
