-- Prefix of the scripts of conversations.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
-- The set in which a conversation counts: its tenant's own, or the common one of tenants that any caller can invent.
-- nil: there is no room.
local function share_of(own, common, conversation, is_served, most, keep_ms)
  for _, key in ipairs({own, common}) do
    -- If this clock has gone back, conversations are counted anew.
    if redis.call('PTTL', key) > keep_ms then redis.call('UNLINK', key) end
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  end
  if redis.call('ZSCORE', own, conversation) then return own end
  local is_common = redis.call('ZSCORE', common, conversation)
  if is_common and not is_served then return common end
  local share = is_served and own or common
  if redis.call('ZCARD', share) < most then return share end
  return is_common and common or nil
end
local function count(share, common, conversation, expires, keep_ms)
  redis.call('ZADD', share, expires, conversation)
  redis.call('PEXPIRE', share, keep_ms)
  if share ~= common then redis.call('ZREM', common, conversation) end
end
