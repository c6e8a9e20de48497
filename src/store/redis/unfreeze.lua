-- Lifts a freeze. Always told: a node may hold one that is lost here.
local id, change = ARGV[4], ARGV[5]
tell(change)
return redis.call('HDEL', base .. 'freezes', id)
