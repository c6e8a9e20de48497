-- Opens a session if its agent may have one more: 0 opened, 1 too many, 2 no such agent.
local id, agent, cap = ARGV[4], ARGV[5], tonumber(ARGV[6])
local budget, expires_at, order, change = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local HOUR_MS = 3600000

if redis.call('HEXISTS', base .. 'agents', agent) == 0
    or redis.call('SISMEMBER', base .. 'inactive', agent) == 1 then
    return 2
end
local now = now_us()
redis.call('ZREMRANGEBYSCORE', active_key(agent), '-inf', whole(now))
if redis.call('ZCARD', active_key(agent)) >= cap then return 1 end

tell(change)
local life_ms = math.max(math.ceil((tonumber(expires_at) - now) / 1000), 0) + HOUR_MS
redis.call('HSET', order_key(id), 'order', order, 'agent', agent, 'budget', budget, 'booked', '0',
    'expires_at', expires_at)
redis.call('PEXPIRE', order_key(id), whole(life_ms))
redis.call('ZADD', base .. 'ends', expires_at, id)
redis.call('ZADD', active_key(agent), expires_at, id)
if redis.call('PTTL', active_key(agent)) < life_ms then
    redis.call('PEXPIRE', active_key(agent), whole(life_ms))
end
return 0
