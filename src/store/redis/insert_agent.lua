-- Registers an agent under an id that was never used: 0 registered, 1 the id was used.
local id, agent, trust, change = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
if redis.call('HEXISTS', base .. 'agents', id) == 1
    or redis.call('SISMEMBER', base .. 'tombstones', id) == 1 then
    return 1
end
tell(change)
redis.call('HSET', base .. 'agents', id, agent)
redis.call('HSET', base .. 'trust', id, trust)
return 0
