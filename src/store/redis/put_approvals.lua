-- Takes steps of approvals, all or none: thirteen arguments each. A step is taken from the version that is
-- stored. Gives `done`, or what stands in the way: `overtaken` or `over` with an id, or `too_many`.
local of_agent, of_owner, in_all = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local FIRST, COUNT = 7, 13
local now, added = now_us(), {}
local states, by_digest = base .. 'approval_states', base .. 'approval_of'
local ends = base .. 'approval_ends'

local function step(i)
    return {
        id = ARGV[i], from = ARGV[i + 1], stamp = ARGV[i + 2], state = ARGV[i + 3], body = ARGV[i + 4],
        digest = ARGV[i + 5], agent = ARGV[i + 6], owner = ARGV[i + 7], expires = tonumber(ARGV[i + 8]),
        status = ARGV[i + 9], open = ARGV[i + 10] == '1', timed = ARGV[i + 11] == '1', change = ARGV[i + 12],
    }
end

-- Where a pending approval is counted, and how many may be there.
local function counts(s)
    return {
        { base .. 'waiting', in_all },
        { base .. 'waiting:agent:' .. s.agent, of_agent },
        { base .. 'waiting:owner:' .. s.owner, of_owner },
    }
end

for i = FIRST, #ARGV, COUNT do
    local s = step(i)
    local stored = redis.call('HGET', states, s.id)
    local there = stored and string.match(stored, '^(%d+ %a+ %d+) ') or ''
    if there ~= s.from then return { 'overtaken', s.id } end
    if s.from == '' then
        local other = redis.call('HGET', by_digest, s.digest)
        local over = other and tonumber(redis.call('ZSCORE', ends, other) or '0')
        if other and other ~= s.id and over > now then return { 'overtaken', other } end
    end
    if s.timed and s.expires <= now then return { 'over', s.id } end
    if s.from == '' and s.status == 'pending' then
        for _, count in ipairs(counts(s)) do
            local key, most = count[1], count[2]
            local waiting = redis.call('ZCOUNT', key, '(' .. whole(now), '+inf') + (added[key] or 0)
            if waiting >= most then return { 'too_many' } end
            added[key] = (added[key] or 0) + 1
        end
    end
end

for i = FIRST, #ARGV, COUNT do
    local s = step(i)
    tell(s.change)
    redis.call('HSET', states, s.id, s.stamp .. ' ' .. s.digest .. ' ' .. s.state)
    if s.body ~= '' then redis.call('HSET', base .. 'approvals', s.id, s.body) end
    redis.call('ZADD', ends, whole(s.expires), s.id)
    if s.open then
        redis.call('HSET', by_digest, s.digest, s.id)
    elseif redis.call('HGET', by_digest, s.digest) == s.id then
        redis.call('HDEL', by_digest, s.digest)
    end
    for _, count in ipairs(counts(s)) do
        local key = count[1]
        redis.call('ZREMRANGEBYSCORE', key, '-inf', whole(now))
        if s.status == 'pending' then
            redis.call('ZADD', key, whole(s.expires), s.id)
            local left = math.ceil((s.expires - now) / 1000)
            redis.call('PEXPIRE', key, whole(math.max(left, redis.call('PTTL', key), 1)))
        else
            redis.call('ZREM', key, s.id)
        end
    end
end
return { 'done' }
