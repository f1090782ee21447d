-- Gives back what an answer takes of its tenant's quota. Answers of older versions do not say what that is.
local function give_back(quota, entry)
  local v = redis.call('HMGET', entry, 'e', 'z')
  if v[1] and v[2] and redis.call('HEXISTS', quota, v[1]) == 1 then
    if redis.call('HINCRBY', quota, v[1], 0 - v[2]) <= 0 then redis.call('HDEL', quota, v[1]) end
  end
end
