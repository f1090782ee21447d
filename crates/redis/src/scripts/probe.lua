-- KEYS b l   ARGV token lease_ms
-- -> {1, unanswered probes so far, 1 if another has asked since} | {0, ms of another's lease} | {-1, ms it is open}
local u, held, left = open_until(KEYS[1]), redis.call('GET', KEYS[2]), redis.call('PTTL', KEYS[2])
-- The caller's own is renewed, or its reply was lost. Even if another process has opened the circuit since: the probe continues.
local is_ours = held and string.sub(held, 1, #ARGV[1]) == ARGV[1]
-- A lease is its token, its length, and a space if another process has asked for it since.
local is_wanted = held and string.sub(held, -1) == ' '
if u > now and not is_ours then return {-1, u - now} end
if held and not is_ours then
  -- At most its length from now, in case this clock has gone back.
  local lease = tonumber(string.match(string.sub(held, #ARGV[1] + 1), '^%d+'))
  if left > lease then redis.call('PEXPIRE', KEYS[2], lease) end
  -- Not while memory is full: then nothing is lost but the request.
  if not is_wanted then redis.pcall('SET', KEYS[2], held .. ' ', 'KEEPTTL') end
  return {0, math.min(left, lease)}
end
redis.call('SET', KEYS[2], ARGV[1] .. ARGV[2], 'PX', ARGV[2])
return {1, tonumber(redis.call('HGET', KEYS[1], 'n') or 0), is_ours and is_wanted and 1 or 0}
