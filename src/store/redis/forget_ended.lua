-- Forgets at most so many sessions that ended so many seconds ago by this server's clock; says how many.
local over = now_us() - tonumber(ARGV[4]) * 1000000
local ended = redis.call('ZRANGEBYSCORE', base .. 'ends', '-inf', whole(over), 'LIMIT', '0', ARGV[5])
for _, id in ipairs(ended) do forget(id) end
return #ended
