-- KEYS v a b c   ARGV process open_ms active_ms circuit   -> {ms that it is open, votes, active}
-- A set is kept as long as its last member.
local function keep(key)
  local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
  redis.call('PEXPIREAT', key, string.format('%.0f', last))
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
-- A vote stands until a probe finds the upstream well, or its process is not heard of any more.
local stands = math.max(ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[1], 'GT', now + stands, ARGV[1])
redis.call('ZADD', KEYS[2], 'GT', now + ARGV[3], ARGV[1])
keep(KEYS[1])
keep(KEYS[2])
local votes, active = redis.call('ZCARD', KEYS[1]), redis.call('ZCARD', KEYS[2])
local u = math.max(tonumber(redis.call('HGET', KEYS[3], 'u') or 0), now + ARGV[2])
redis.call('HSET', KEYS[3], 'u', string.format('%.0f', u))
redis.call('PEXPIRE', KEYS[3], math.max(2 * (u - now), ARGV[3]))
redis.call('PUBLISH', KEYS[4], string.format('%s open %.0f %d %d %s', ARGV[4], u - now, votes, active, ARGV[1]))
return {u - now, votes, active}
