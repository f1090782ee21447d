-- A tenant's logs in flight: q has them by expiry, z has the bytes of each, and under '' their sum.
local function uncount(q, z, log)
  local bytes = redis.call('HGET', z, log)
  if not bytes then return end
  redis.call('HINCRBY', z, '', 0 - bytes)
  redis.call('HDEL', z, log)
  redis.call('ZREM', q, log)
end
local function uncount_expired(q, z, now)
  for _, log in ipairs(redis.call('ZRANGEBYSCORE', q, '-inf', now)) do uncount(q, z, log) end
end
-- false: the tenant has no room for it.
local function count(q, z, log, bytes, expires, ttl, most)
  local more = bytes - (redis.call('HGET', z, log) or 0)
  if more > 0 and (redis.call('HGET', z, '') or 0) + more > most then return false end
  redis.call('HINCRBY', z, '', more)
  redis.call('HSET', z, log, bytes)
  redis.call('ZADD', q, 'GT', expires, log)
  for _, key in ipairs({q, z}) do
    if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
  end
  return true
end
