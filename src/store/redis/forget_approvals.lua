-- Forgets those of these approvals that have ended, by what became of them or by this server's clock.
local now, states, by_digest = now_us(), base .. 'approval_states', base .. 'approval_of'
for i = 4, #ARGV do
    local id = ARGV[i]
    local status, digest
    local stored = redis.call('HGET', states, id)
    if stored then status, digest = string.match(stored, '^%d+ (%a+) %d+ (%x+) ') end
    local open = status == 'pending' or status == 'approved' or status == 'denied'
    if stored and (not open or tonumber(redis.call('ZSCORE', base .. 'approval_ends', id) or '0') <= now) then
        if digest and redis.call('HGET', by_digest, digest) == id then redis.call('HDEL', by_digest, digest) end
        redis.call('HDEL', states, id)
        redis.call('HDEL', base .. 'approvals', id)
        redis.call('ZREM', base .. 'approval_ends', id)
    end
end
return 0
