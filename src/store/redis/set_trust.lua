-- Sets an agent's trust, up or down, and forgets its flags; gives the number of this change, or 0 if there is no
-- such agent. The change that the others are told has its number between two parts.
local id, level, above, before, behind = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
if redis.call('HEXISTS', base .. 'agents', id) == 0 then return 0 end
local number = math.max(tonumber(redis.call('HGET', base .. 'numbers', id) or '0'), above) + 1
tell(before .. whole(number) .. behind)
redis.call('HSET', base .. 'trust', id, level)
redis.call('HSET', base .. 'numbers', id, whole(number))
redis.call('HDEL', base .. 'flags', id)
return number
