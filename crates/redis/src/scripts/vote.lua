-- KEYS v a b c   ARGV process open_ms active_ms circuit   -> {ms until it closes, votes, active}
local u, active = math.max(open_until(KEYS[3]), now + ARGV[2]), now + ARGV[3]
expire(KEYS[1], math.max(u, active))
expire(KEYS[2], active)
-- A vote stands until a probe succeeds, or its process is gone.
redis.call('ZADD', KEYS[1], 'GT', math.max(now + ARGV[2], active), ARGV[1])
redis.call('ZADD', KEYS[2], 'GT', active, ARGV[1])
keep(KEYS[1])
keep(KEYS[2])
local votes, processes, open = #voters(KEYS[1], KEYS[2]), redis.call('ZCARD', KEYS[2]), u - now
redis.call('HSET', KEYS[3], 'u', string.format('%.0f', u), 'd', open)
redis.call('PEXPIRE', KEYS[3], math.max(2 * open, tonumber(ARGV[3])))
redis.call('PUBLISH', KEYS[4], string.format('%s open %.0f %d %d %s', ARGV[4], open, votes, processes, ARGV[1]))
return {open, votes, processes}
