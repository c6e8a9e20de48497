-- Counts drift flags against an agent, tells the other nodes, and keeps those that may still matter.
local id, count, kept_us, kept, change =
    ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
tell(change)
if redis.call('HEXISTS', base .. 'agents', id) == 0 then return 0 end
local now, all = now_us(), {}
local before = redis.call('HGET', base .. 'flags', id) or ''
for at, flags in string.gmatch(before, '(%d+):(%d+)') do
    if tonumber(at) > now - kept_us then all[#all + 1] = at .. ':' .. flags end
end
all[#all + 1] = whole(now) .. ':' .. count
redis.call('HSET', base .. 'flags', id, table.concat(all, ' ', math.max(#all - kept + 1, 1)))
return 0
