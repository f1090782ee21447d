-- KEYS v a b   ARGV process active_ms      -> {ms until it closes, votes, active}
local u, active = open_until(KEYS[3]), now + ARGV[2]
expire(KEYS[1], math.max(u, active))
expire(KEYS[2], active)
redis.call('ZADD', KEYS[2], 'GT', active, ARGV[1])
keep(KEYS[2])
return {math.max(u - now, 0), #voters(KEYS[1], KEYS[2]), redis.call('ZCARD', KEYS[2])}
