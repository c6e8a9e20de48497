-- Which form the keys have (if there are none and it may be said: this one, from now on), and what the server
-- says of its memory and of what it keeps.
if ARGV[2] == '1' then redis.call('SET', KEYS[1] .. 'format', ARGV[1], 'NX') end
local function info(section)
    local text = redis.pcall('INFO', section)
    if type(text) == 'string' then return text end
    return ''
end
return { redis.call('GET', KEYS[1] .. 'format') or ARGV[1], info('memory'), info('persistence') }
