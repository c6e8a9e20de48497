-- Takes back what a node did not use of its sessions: five arguments each.
local now = now_us()
for i = 4, #ARGV, 5 do
    local id, unused, lease = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
    if redis.call('EXISTS', order_key(id)) == 1 then
        if lease ~= '' then used(id, lease, tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]), now) end
        give_back(id, unused)
    end
end
return 0
