"""The rate limits' scripts in Redis: for a request that comes, for one that goes, for those that still run.

Whole numbers throughout: a bucket's level counts sixty-thousandths, so that a millisecond refills a whole
number of them; a limit of 10^11 a minute then stays below 2^53, up to which Lua's numbers are exact. The
server's clock counts, so replicas' clocks need not agree. Each script runs as one; its keys are an
organisation's, under one hash tag, so that a cluster keeps them together.
"""

from trivet.storage.redis_link import Script

LARGEST_SIZE = 10**11
"""What is limited to more than that is not limited here."""

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS: for each limited scope its buckets, then its slots.
# ARGV: lease in ms, name of the request, its tokens; for each scope its sizes: requests, tokens, at once; -1:
# none. Returns 1 and for each scope level of requests, of tokens, running; or 0, the scope at fault counted
# from 0, which rate (at once, requests, tokens), the wait in ms (-1: for ever), and its levels.
COME = Script(
    "come",
    _NOW
    + """
local lease_ms, name, tokens = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local MINUTE = 60000
local states = {}

local function level_of(key, kind, size)
    if size < 0 then return 0 end
    local found = redis.call('HMGET', key, kind, kind .. '_size', kind .. '_at')
    local level, before, at = tonumber(found[1]), tonumber(found[2]), tonumber(found[3])
    if not level then return size * MINUTE end
    level = level + (size - before) * MINUTE
    if now > at then level = level + size * (now - at) end
    return math.min(size * MINUTE, level)
end

local function wait_of(level, size, amount)
    if size < 0 then return 0 end
    if size == 0 then return -1 end
    return math.max(0, math.ceil((math.min(amount, size) * MINUTE - level) / size))
end

for i = 1, #KEYS / 2 do
    local buckets, slots, base = KEYS[2 * i - 1], KEYS[2 * i], 3 * i
    local state = { requests = tonumber(ARGV[base + 1]), tokens = tonumber(ARGV[base + 2]) }
    state.most = tonumber(ARGV[base + 3])
    redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
    state.running = redis.call('ZCARD', slots)
    state.of_requests = level_of(buckets, 'requests', state.requests)
    state.of_tokens = level_of(buckets, 'tokens', state.tokens)
    local fault, wait = nil, 0
    if state.most >= 0 and state.running >= state.most then
        fault, wait = 0, (state.most == 0 and -1 or 1000)
    end
    if not fault then
        wait = wait_of(state.of_requests, state.requests, 1)
        if wait ~= 0 then fault = 1 end
    end
    if not fault then
        wait = wait_of(state.of_tokens, state.tokens, tokens)
        if wait ~= 0 then fault = 2 end
    end
    if fault then return {0, i - 1, fault, wait, state.of_requests, state.of_tokens, state.running} end
    states[i] = state
end

local function take(key, kind, size, level)
    if size < 0 then return end
    redis.call('HSET', key, kind, string.format('%.0f', level), kind .. '_size', size, kind .. '_at', now)
end

local answer = {1}
for i, state in ipairs(states) do
    local buckets, slots = KEYS[2 * i - 1], KEYS[2 * i]
    if state.requests >= 0 then state.of_requests = state.of_requests - MINUTE end
    if state.tokens >= 0 then state.of_tokens = state.of_tokens - tokens * MINUTE end
    take(buckets, 'requests', state.requests, state.of_requests)
    take(buckets, 'tokens', state.tokens, state.of_tokens)
    -- A full bucket is as good as none; one that was overdrawn is remembered until it is paid.
    local owed = 0
    if state.tokens > 0 then owed = math.ceil(math.max(0, -state.of_tokens) / state.tokens) end
    redis.call('PEXPIRE', buckets, 2 * MINUTE + math.min(owed, 86400000))
    redis.call('ZADD', slots, now + lease_ms, name)
    redis.call('PEXPIRE', slots, 2 * lease_ms)
    answer[#answer + 1] = state.of_requests
    answer[#answer + 1] = state.of_tokens
    answer[#answer + 1] = state.running + 1
end
return answer
""",
)

# KEYS: as above. ARGV: name of the request, tokens to give back (below 0: to take), in sixty-thousandths.
GO = Script(
    "go",
    """
for i = 1, #KEYS / 2 do
    redis.call('ZREM', KEYS[2 * i], ARGV[1])
    if redis.call('HEXISTS', KEYS[2 * i - 1], 'tokens') == 1 then
        redis.call('HINCRBY', KEYS[2 * i - 1], 'tokens', ARGV[2])
    end
end
return 1
""",
)

# KEYS: the slots of a scope. ARGV: lease in ms, then the names of the requests that still run there.
STAY = Script(
    "stay",
    _NOW
    + """
local lease_ms = tonumber(ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], now + lease_ms, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], 2 * lease_ms)
return 1
""",
)
