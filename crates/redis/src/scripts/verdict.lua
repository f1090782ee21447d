-- KEYS b l v a c   ARGV token verdict open_ms unanswered keep_ms circuit process active_ms
-- verdict 1 recovered | 0 failed | -1 returned      1 done | 0 another's probe
if string.sub(redis.call('GET', KEYS[2]) or '', 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[2] == '-1' then return 1 end
if ARGV[2] == '1' then
  redis.call('DEL', KEYS[1], KEYS[3])
  redis.call('PUBLISH', KEYS[5], ARGV[6] .. ' closed 0 0 0 ' .. ARGV[7])
  return 1
end
local u, active = now + ARGV[3], now + ARGV[8]
local stands = math.max(u, active)
expire(KEYS[3], stands)
expire(KEYS[4], active)
-- A failed probe is a vote, and extends those of the others.
redis.call('ZADD', KEYS[3], stands, ARGV[7])
redis.call('ZADD', KEYS[4], 'GT', active, ARGV[7])
local counted = voters(KEYS[3], KEYS[4])
for _, process in ipairs(counted) do redis.call('ZADD', KEYS[3], stands, process) end
keep(KEYS[3])
keep(KEYS[4])
redis.call('HSET', KEYS[1], 'u', string.format('%.0f', u), 'd', ARGV[3], 'n', ARGV[4])
redis.call('PEXPIRE', KEYS[1], math.max(2 * ARGV[3], tonumber(ARGV[5])))
local votes, processes = #counted, redis.call('ZCARD', KEYS[4])
redis.call('PUBLISH', KEYS[5], string.format('%s open %.0f %d %d %s', ARGV[6], ARGV[3], votes, processes, ARGV[7]))
return 1
