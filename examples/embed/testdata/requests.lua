-- Requests of three kinds: squares of numbers, of which no two are the same,
-- and now and then a program that takes too much memory, of the first thread, or
-- too much time, of the second. Each thread counts the answers. When it has its
-- share of the right ones and one of the others it stops, and says so: wrk itself
-- goes on until it is told.
local threads = {}

function setup(thread)
	thread:set("number", #threads * 1000000)
	table.insert(threads, thread)
end

function init(args)
	wanted, asked, seen = tonumber(args[1]), 0, {}
	right, wrong, late, hungry, busy = 0, 0, 0, 0, 0
	first = "none"
end

function request()
	asked = asked + 1
	if asked % 25 == 20 then
		if number < 1000000 then
			return wrk.format("POST", "/?arg=/worker&arg=eat", nil, "")
		end
		return wrk.format("POST", "/?arg=/worker&arg=nap", nil, "1h")
	end
	number = number + 1
	return wrk.format("POST", "/?arg=/worker&arg=square", nil, tostring(number))
end

function response(status, headers, body)
	local n, square = string.match(body, "^(%d+) (%d+)\n$")
	if status == 504 then
		late = late + 1
	elseif status == 507 then
		hungry = hungry + 1
	elseif status == 503 then
		busy = busy + 1
	elseif status == 200 and n and tonumber(n) ^ 2 == tonumber(square) and not seen[n] then
		seen[n] = true
		right = right + 1
	else
		wrong = wrong + 1
		first = status .. " " .. body
	end
	if right >= wanted and late + hungry > 0 and not enough then
		enough = true
		io.stderr:write("enough\n")
		wrk.thread:stop()
	end
end

function done()
	for _, name in ipairs({"right", "wrong", "late", "hungry", "busy"}) do
		local sum = 0
		for _, thread in ipairs(threads) do
			sum = sum + thread:get(name)
		end
		print("answers " .. name .. " " .. sum)
	end
	print("first wrong " .. threads[1]:get("first") .. " " .. threads[2]:get("first"))
end
