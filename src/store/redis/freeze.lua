-- Keeps a freeze.
local id, freeze, change = ARGV[4], ARGV[5], ARGV[6]
tell(change)
redis.call('HSET', base .. 'freezes', id, freeze)
return 0
