-- KEYS rate.. d   ARGV done_ms, then per rate: the correction in us      1 done | 0 done before
if not redis.call('SET', KEYS[#KEYS], '0 0', 'NX', 'PX', ARGV[1]) then return 0 end
for i = 1, #KEYS - 1 do
  local tat = math.max(taken(KEYS[i]), now) + tonumber(ARGV[i + 1])
  if tat > now then take(KEYS[i], tat) else redis.call('DEL', KEYS[i]) end
end
return 1
