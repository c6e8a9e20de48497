-- Deactivates each agent that there is: two arguments each.
for i = 4, #ARGV, 2 do
    if redis.call('HEXISTS', base .. 'agents', ARGV[i]) == 1 then
        tell(ARGV[i + 1])
        redis.call('SADD', base .. 'inactive', ARGV[i])
    end
end
return 0
