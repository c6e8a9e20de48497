-- Keeps a continuation until its end, and of its session only the `most` that end last.
local mark, session, text = ARGV[4], ARGV[5], ARGV[6]
local ends, most = tonumber(ARGV[7]), tonumber(ARGV[8])
local function kept_key(of) return base .. 'c:' .. of end
local session_key, now = base .. 'cs:' .. session, now_us()
local function left_ms(until_us) return whole(math.ceil((until_us - now) / 1000)) end
if ends <= now then return 0 end
redis.call('SET', kept_key(mark), text, 'PX', left_ms(ends))
redis.call('ZREMRANGEBYSCORE', session_key, '-inf', whole(now))
redis.call('ZADD', session_key, whole(ends), mark)
local surplus = redis.call('ZCARD', session_key) - most
if surplus > 0 then
    for _, first in ipairs(redis.call('ZRANGE', session_key, 0, surplus - 1)) do
        redis.call('DEL', kept_key(first))
    end
    redis.call('ZREMRANGEBYRANK', session_key, 0, surplus - 1)
end
local last = redis.call('ZRANGE', session_key, -1, -1, 'WITHSCORES')
if last[2] then redis.call('PEXPIRE', session_key, left_ms(tonumber(last[2]))) end
return 0
