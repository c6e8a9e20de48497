-- Grants calls, permits of a rate limit, both or neither: what `ledger::account` says, in Redis' words.
local id, wanted = ARGV[4], ARGV[5]
-- The constants of `ledger`.
local SHARES, RATE_BLOCKS = tonumber(ARGV[6]), tonumber(ARGV[7])
local PERMIT_US, PERMITS_IN_A_WINDOW = tonumber(ARGV[8]), tonumber(ARGV[9])
local least, most, unused = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
-- Where a rate limit is shared: limit, window, permits needed; and what became of those before, if any.
local limit, window, need = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
local lease, used_before, ago = ARGV[16], tonumber(ARGV[17]), tonumber(ARGV[18])

local function share(least, most, remaining)
    if least > remaining then return 0 end
    return math.max(math.min(math.ceil(remaining / SHARES), most), least)
end

local row = redis.call('HMGET', order_key(id), 'budget', 'booked', 'closed_at', 'expires_at')
if not row[1] then return { -1 } end
if row[3] then return { 0, tonumber(row[2]), 0, 1, 0, 0, 0, 0, 0 } end
local budget, booked = tonumber(row[1]), tonumber(row[2])
local now = now_us()
if tonumber(row[4]) <= now then return { 0, booked, 0, 2, 0, 0, 0, 0, 0 } end

-- Lease, permits, for how long, how long to wait.
local function permit()
    redis.call('ZREMRANGEBYSCORE', permits_key(id), '-inf', whole(now - window))
    local all, counted = permits(id), 0
    for _, p in ipairs(all) do counted = counted + p.count end
    local granted = 0
    if need > 0 then
        granted = share(need, math.floor(limit / RATE_BLOCKS), math.max(limit - counted, 0))
    end
    if granted == 0 then
        local over = math.max(counted + need - limit, 0)
        for _, p in ipairs(all) do
            over = math.max(over - p.count, 0)
            if over == 0 then return 0, 0, 0, math.max(p.last_us + window - now, 0) end
        end
        return 0, 0, 0, window
    end
    local good_for = math.min(math.floor(window / PERMITS_IN_A_WINDOW), PERMIT_US)
    local n = redis.call('HINCRBY', order_key(id), 'leases', 1)
    redis.call('ZADD', permits_key(id), whole(now + good_for),
        whole(n) .. ':1:' .. whole(granted) .. ':' .. node)
    expire_with(id, permits_key(id))
    return n, granted, good_for, 0
end

if limit and lease ~= '' then used(id, lease, used_before, ago, now) end
local granted = share(least, most, math.max(budget - booked, 0))
local elsewhere, rated, rate_lease, permitted, good_for, wait = 0, 0, 0, 0, 0, 0
if least == 0 or granted > 0 then
    if limit then
        rated = 1
        rate_lease, permitted, good_for, wait = permit()
    end
    if limit and permitted == 0 then granted = 0 end
else
    local held = redis.call('HGETALL', held_key(id))
    for i = 1, #held, 2 do
        -- Only a node that runs can give back.
        if held[i] ~= node and redis.call('EXISTS', base .. 'node:' .. held[i]) == 1 then
            elsewhere = elsewhere + tonumber(held[i + 1])
        end
    end
    -- Whoever asks again and again must not fill the stream.
    if elsewhere > 0 and redis.call('SET', base .. 'wanted:' .. id, '1', 'NX', 'PX', '100') then
        tell(wanted)
    end
end
if granted > 0 then
    booked = booked + granted
    redis.call('HSET', order_key(id), 'booked', whole(booked))
end
hold(id, unused + granted)
return { granted, booked, elsewhere, 0, rated, rate_lease, permitted, good_for, wait }
