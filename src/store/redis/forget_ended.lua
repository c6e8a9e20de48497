-- Forgets at most so many sessions that had ended by a time; says how many.
local ended = redis.call('ZRANGEBYSCORE', base .. 'ends', '-inf', ARGV[4], 'LIMIT', '0', ARGV[5])
for _, id in ipairs(ended) do forget(id) end
return #ended
