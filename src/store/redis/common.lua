-- What every script begins with. KEYS[1] is what all keys begin with: `{prefix}:`, whose braces keep them
-- on one node of a cluster. ARGV[1] is who asks, ARGV[2] the time in microseconds (a test's; else empty, and
-- the server's clock is read), ARGV[3] a mark that no other run of a script has: the
-- number of the connection, a letter if the node has another line of connections, `.`, and a random text.
local base, node, given, mark = KEYS[1], ARGV[1], ARGV[2], ARGV[3]

-- A node that had no answer in time gives the connection up and asks by another. What the old one still
-- carries must not run any more: the node has gone on without it, and to take back late what it gave up
-- then would take what it was granted since.
local HOUR_S = 3600
local number, lane = string.match(mark, '^(%d+)(%a?)%.')
local connection, latest_key = tonumber(number), base .. 'connection:' .. node .. lane
local latest = tonumber(redis.call('GET', latest_key) or '0')
if connection < latest then return redis.error_reply('STALE a later connection has been used') end
if connection > latest then
    redis.call('SET', latest_key, string.format('%.0f', connection), 'EX', HOUR_S)
end

-- Numbers are doubles: whole up to 2^53, which bounds budgets, counts and times. Redis would write large ones
-- with an exponent.
local function whole(n) return string.format('%.0f', n) end

local function now_us()
    if given ~= '' then return tonumber(given) end
    local t = redis.call('TIME')
    return t[1] * 1000000 + t[2]
end

-- Nothing of what a script did before an error is undone, so each tells the others before it changes anything:
-- a change that was told and not made makes them look, one that was made and not told leaves them wrong.
local function tell(change)
    local n = redis.call('INCR', base .. 'sequence')
    redis.call('XADD', base .. 'changes', 'MAXLEN', '~', '100000', whole(n) .. '-0',
        'node', node, 'mark', mark, 'change', change)
end

local function order_key(id) return base .. 's:' .. id end
local function held_key(id) return base .. 'h:' .. id end
local function permits_key(id) return base .. 'p:' .. id end
local function active_key(agent) return base .. 'a:' .. agent end

local function forget(id)
    local agent = redis.call('HGET', order_key(id), 'agent')
    if agent then redis.call('ZREM', active_key(agent), id) end
    redis.call('DEL', order_key(id), held_key(id), permits_key(id))
    return redis.call('ZREM', base .. 'ends', id)
end

-- A session's other keys go when the session does.
local function expire_with(id, key)
    redis.call('PEXPIRE', key, redis.call('PTTL', order_key(id)))
end

local function hold(id, calls)
    if calls <= 0 then
        redis.call('HDEL', held_key(id), node)
    else
        redis.call('HSET', held_key(id), node, whole(calls))
        expire_with(id, held_key(id))
    end
end

-- Takes back what this node did not use: never more than it holds, so that twice is once.
local function give_back(id, unused)
    local held = tonumber(redis.call('HGET', held_key(id), node) or '0')
    local booked = tonumber(redis.call('HGET', order_key(id), 'booked'))
    local back = math.min(unused, held)
    hold(id, 0)
    if back > 0 then
        redis.call('HSET', order_key(id), 'booked', whole(math.max(booked - back, 0)))
    end
end

-- Permits granted at once are one member `lease:open:count:node`, by the last instant at which they were or
-- will be used.
local function permits(id)
    local found = {}
    local all = redis.call('ZRANGE', permits_key(id), 0, -1, 'WITHSCORES')
    for i = 1, #all, 2 do
        local lease, open, count, whose = string.match(all[i], '^(%d+):(%d):(%d+):(.*)$')
        found[#found + 1] = {
            member = all[i], lease = lease, open = open == '1', count = tonumber(count), node = whose,
            last_us = tonumber(all[i + 1]),
        }
    end
    return found
end

-- Takes in what became of the permits that this node was given before.
local function used(id, lease, count, ago_us, now)
    for _, p in ipairs(permits(id)) do
        if p.open and p.lease == lease and p.node == node then
            redis.call('ZREM', permits_key(id), p.member)
            local left = math.min(p.count, count)
            if left > 0 then
                local last = math.min(p.last_us, math.max(now - ago_us, 0))
                redis.call('ZADD', permits_key(id), whole(last),
                    lease .. ':0:' .. whole(left) .. ':' .. node)
                expire_with(id, permits_key(id))
            end
        end
    end
end
