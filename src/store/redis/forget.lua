-- Forgets these sessions.
for i = 4, #ARGV do forget(ARGV[i]) end
return 0
