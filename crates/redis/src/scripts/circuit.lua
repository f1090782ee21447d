-- Prefix of each script of circuits.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
-- A set lives as long as its last member.
local function keep(key)
  local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
  redis.call('PEXPIREAT', key, string.format('%.0f', last))
end
-- Removes expired members, and limits the others to `latest`, in case this clock has gone back.
local function expire(key, latest)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  latest = string.format('%.0f', latest)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. latest, '+inf')) do
    redis.call('ZADD', key, latest, member)
  end
end
-- The voters that still use the circuit: a process that is gone has no vote.
local function voters(votes, active)
  return redis.call('ZINTER', 2, votes, active)
end
-- The end of a circuit's open time, at most its length (d) from now, in case this clock has gone back.
local function open_until(key)
  local v = redis.call('HMGET', key, 'u', 'd')
  local u = tonumber(v[1] or 0)
  if v[2] and u > now + v[2] then
    u = now + v[2]
    redis.call('HSET', key, 'u', string.format('%.0f', u))
  end
  return u
end
