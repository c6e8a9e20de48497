-- Takes a continuation away, for one of those who ask at the same time.
return redis.call('DEL', base .. 'c:' .. ARGV[4])
