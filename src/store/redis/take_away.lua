-- Takes away what is not gone yet: six arguments each, behind the names of the trust levels, lowest first. A
-- lower level counts unless an operator has set one since, by a change with a higher number. The change that
-- the others are told has the level that results between two parts.
local ranks, levels = {}, 0
for level in string.gmatch(ARGV[4], '%a+') do
    ranks[level] = levels
    levels = levels + 1
end
local now, done = now_us(), 0
for i = 5, #ARGV, 6 do
    local id, inactive, level, number, before, behind =
        ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 4], ARGV[i + 5]
    if redis.call('HEXISTS', base .. 'agents', id) == 1 then
        local ends = inactive == '1' and redis.call('SISMEMBER', base .. 'inactive', id) == 0
        local lower, renumber, results = false, false, level
        if level ~= '' then
            local known = tonumber(redis.call('HGET', base .. 'numbers', id) or '0')
            local trust = redis.call('HGET', base .. 'trust', id)
            lower = number >= known and ranks[level] < ranks[trust]
            renumber = number > known
            if number >= known and not lower then results = trust end
        end
        if ends or lower or renumber then
            tell(before .. results .. behind)
            if ends then
                redis.call('SADD', base .. 'inactive', id)
                redis.call('HSET', base .. 'ended', id, whole(now))
            end
            if renumber then redis.call('HSET', base .. 'numbers', id, whole(number)) end
            if lower then redis.call('HSET', base .. 'trust', id, level) end
            redis.call('HDEL', base .. 'flags', id)
            done = done + 1
        end
    end
end
return done
