-- KEYS n   ARGV process ttl_ms     -> how many processes there are
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
-- As long as the one that was heard of last may be alive: another process may have asked for less.
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIRE', KEYS[1], last[2] - now)
return redis.call('ZCARD', KEYS[1])
