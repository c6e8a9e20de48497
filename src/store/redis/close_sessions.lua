-- Closes sessions and takes back what they did not use: three arguments each. One that is closed stays as it
-- is, but for what this node held of it: another may have closed it at the same time.
local at = tonumber(ARGV[4])
for i = 5, #ARGV, 3 do
    local id, unused, change = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
    local row = redis.call('HMGET', order_key(id), 'agent', 'expires_at', 'closed_at')
    if row[1] and not row[3] then
        tell(change)
        local closed_at = whole(math.min(at, tonumber(row[2])))
        redis.call('HSET', order_key(id), 'closed_at', closed_at)
        redis.call('ZADD', base .. 'ends', closed_at, id)
        redis.call('ZREM', active_key(row[1]), id)
    end
    if row[1] then give_back(id, unused) end
end
return 0
