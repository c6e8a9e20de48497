-- Forgets those agents that ended long enough ago, and gives their ids: four arguments each. The ids of
-- deactivated ones may be kept, so that they are never used again.
local now, done = now_us(), {}
local over = now - tonumber(ARGV[4]) * 1000000
for i = 6, #ARGV, 4 do
    local id, expires_at = ARGV[i], tonumber(ARGV[i + 1])
    if redis.call('HEXISTS', base .. 'agents', id) == 1 then
        local inactive = redis.call('SISMEMBER', base .. 'inactive', id) == 1
        local ended = tonumber(redis.call('HGET', base .. 'ended', id) or '')
        if inactive and not ended then
            -- An earlier version did not note the time.
            redis.call('HSET', base .. 'ended', id, whole(now))
        end
        if (inactive and ended and ended <= over) or (expires_at and expires_at <= over) then
            local keep = inactive and ARGV[5] == '1'
            tell(keep and ARGV[i + 3] or ARGV[i + 2])
            for _, key in ipairs({ 'agents', 'trust', 'numbers', 'flags', 'ended' }) do
                redis.call('HDEL', base .. key, id)
            end
            redis.call('SREM', base .. 'inactive', id)
            if keep then redis.call('SADD', base .. 'tombstones', id) end
            done[#done + 1] = id
        end
    end
end
return done
