-- KEYS v a b   ARGV process active_ms      -> {ms that it is still open, votes, active}
-- A set is kept as long as its last member.
local function keep(key)
  local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
  redis.call('PEXPIREAT', key, string.format('%.0f', last))
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], 'GT', now + ARGV[2], ARGV[1])
keep(KEYS[2])
local open = tonumber(redis.call('HGET', KEYS[3], 'u') or 0) - now
return {math.max(open, 0), redis.call('ZCARD', KEYS[1]), redis.call('ZCARD', KEYS[2])}
