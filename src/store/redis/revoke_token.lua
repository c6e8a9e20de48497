-- Remembers a revoked token, and forgets those whose time is over by this server's clock.
local token, until_us, change = ARGV[4], ARGV[5], ARGV[6]
tell(change)
redis.call('ZREMRANGEBYSCORE', base .. 'revoked', '-inf', whole(now_us()))
redis.call('ZADD', base .. 'revoked', 'GT', until_us, token)
return 0
