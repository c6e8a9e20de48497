-- Ends those delegations that there are, three arguments each; gives the number of the latest change. The
-- change that the others are told has its number between two parts.
local version = tonumber(redis.call('GET', base .. 'graph') or '0')
for i = 4, #ARGV, 3 do
    if redis.call('HEXISTS', base .. 'delegations', ARGV[i]) == 1 then
        version = version + 1
        tell(ARGV[i + 1] .. whole(version) .. ARGV[i + 2])
        redis.call('HDEL', base .. 'delegations', ARGV[i])
        redis.call('SET', base .. 'graph', whole(version))
    end
end
return version
