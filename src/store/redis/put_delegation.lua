-- Adds a delegation, or replaces the one with its id, if nothing of all delegations has changed since it was
-- checked; gives the number of this change, or 0.
local id, delegation, known, change = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
if tonumber(redis.call('GET', base .. 'graph') or '0') ~= known then return 0 end
tell(change)
redis.call('HSET', base .. 'delegations', id, delegation)
return redis.call('INCR', base .. 'graph')
