-- Gives back what an answer takes of its tenant's quota. Answers of older versions do not say what that is.
-- Behind the deletion: Redis refuses a first command that may take memory when it has none.
local function give_back(quota, expires, cost)
  if expires and cost and redis.call('HEXISTS', quota, expires) == 1 then
    if redis.call('HINCRBY', quota, expires, 0 - cost) <= 0 then redis.call('HDEL', quota, expires) end
  end
end
