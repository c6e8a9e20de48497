-- Which form the keys have (if there are none and it may be said: this one, from now on; an earlier one that this
-- one can read becomes this one), and what the server says of its memory and of what it keeps.
local format, earlier, claim = ARGV[1], ARGV[2], ARGV[3] == '1'
local found = redis.call('GET', KEYS[1] .. 'format') or format
if found == earlier then found = format end
if claim and found == format then redis.call('SET', KEYS[1] .. 'format', format) end
local function info(section)
    local text = redis.pcall('INFO', section)
    if type(text) == 'string' then return text end
    return ''
end
return { found, info('memory'), info('persistence') }
