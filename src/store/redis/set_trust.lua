-- Sets the trust of each agent that there is: three arguments each.
for i = 4, #ARGV, 3 do
    if redis.call('HEXISTS', base .. 'agents', ARGV[i]) == 1 then
        tell(ARGV[i + 2])
        redis.call('HSET', base .. 'trust', ARGV[i], ARGV[i + 1])
    end
end
return 0
