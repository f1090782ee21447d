-- KEYS b l v a c   ARGV token verdict open_ms unanswered keep_ms circuit process active_ms
-- verdict 1 well | 0 failed | -1 given back      1 done | 0 the probe is another's
-- A set is kept as long as its last member.
local function keep(key)
  local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
  redis.call('PEXPIREAT', key, string.format('%.0f', last))
end
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[2] == '-1' then return 1 end
if ARGV[2] == '1' then
  redis.call('DEL', KEYS[1], KEYS[3])
  redis.call('PUBLISH', KEYS[5], ARGV[6] .. ' closed 0 0 0 ' .. ARGV[7])
  return 1
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
-- A failed probe is a vote, and all others stand as long.
local stands = math.max(ARGV[3], ARGV[8])
redis.call('ZADD', KEYS[3], 'GT', now + stands, ARGV[7])
for _, process in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  redis.call('ZADD', KEYS[3], 'GT', now + stands, process)
end
redis.call('ZADD', KEYS[4], 'GT', now + ARGV[8], ARGV[7])
keep(KEYS[3])
keep(KEYS[4])
redis.call('HSET', KEYS[1], 'u', string.format('%.0f', now + ARGV[3]), 'n', ARGV[4])
redis.call('PEXPIRE', KEYS[1], math.max(2 * ARGV[3], tonumber(ARGV[5])))
local votes, active = redis.call('ZCARD', KEYS[3]), redis.call('ZCARD', KEYS[4])
redis.call('PUBLISH', KEYS[5], string.format('%s open %.0f %d %d %s', ARGV[6], ARGV[3], votes, active, ARGV[7]))
return 1
