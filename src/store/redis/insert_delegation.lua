-- Adds a delegation to as many as it was checked against: 0 added, 1 there are others.
local id, delegation, known, change = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
if redis.call('HLEN', base .. 'delegations') ~= known then return 1 end
tell(change)
redis.call('HSET', base .. 'delegations', id, delegation)
return 0
