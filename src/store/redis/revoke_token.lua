-- Remembers a revoked token, and forgets those whose time is over.
local token, until_us, now, change = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
tell(change)
redis.call('ZREMRANGEBYSCORE', base .. 'revoked', '-inf', now)
redis.call('ZADD', base .. 'revoked', 'GT', until_us, token)
return 0
