-- Which form the keys have (theirs from now on if there are none and it may be said), and what the server says of its memory and of what it keeps.
if ARGV[5] == '1' then redis.call('SET', base .. 'format', ARGV[4], 'NX') end
local function info(section)
    local text = redis.pcall('INFO', section)
    if type(text) == 'string' then return text end
    return ''
end
return { redis.call('GET', base .. 'format') or ARGV[4], info('memory'), info('persistence') }
