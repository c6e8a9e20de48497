-- Forgets those of these sessions that ended so many seconds ago by this server's clock.
local over = now_us() - tonumber(ARGV[4]) * 1000000
for i = 5, #ARGV do
    local ended = redis.call('ZSCORE', base .. 'ends', ARGV[i])
    if ended and tonumber(ended) <= over then forget(ARGV[i]) end
end
return 0
