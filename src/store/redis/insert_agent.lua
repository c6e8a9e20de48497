-- Registers an agent.
local id, agent, trust, active, change = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
tell(change)
redis.call('HSET', base .. 'agents', id, agent)
redis.call('HSET', base .. 'trust', id, trust)
if active == '1' then
    redis.call('SREM', base .. 'inactive', id)
else
    redis.call('SADD', base .. 'inactive', id)
end
return 0
