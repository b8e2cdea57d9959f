"""The Redis shelf's scripts. All keys lie under one hash tag, so that a cluster keeps the shelf together.

`E:<exact>` is an entry, `S:<similar>` the wordings of one question (exact digest to courtesies), `P` the
order in which entries go, `X` when they expire, `Z` what each takes and whose it is, `M` the totals.
"""

from trivet.storage.redis_link import Script

PREFIX = "trivet:{cache}:"
LIKE_MAX = 16
"""How many wordings of one question are remembered and compared."""
PER_BYTES = 1024
"""A priority is nanoseconds saved per so many bytes."""
LEFTOVER_MS = 86_400_000
"""How long after its time an entry goes by itself, where no Trivet runs that would remove it."""

_SHELF = f"""
local PREFIX, PER_BYTES, LIKE_MAX, LEFTOVER = '{PREFIX}', {PER_BYTES}, {LIKE_MAX}, {LEFTOVER_MS}
local ORDER, EXPIRY, SIZES, TOTALS = PREFIX .. 'P', PREFIX .. 'X', PREFIX .. 'Z', PREFIX .. 'M'

local function total(name) return tonumber(redis.call('HGET', TOTALS, name) or 0) end

local function drop(exact)
    local known = redis.call('HGET', SIZES, exact)
    if not known then return 0 end
    local similar = redis.call('HGET', PREFIX .. 'E:' .. exact, 'similar')
    if similar and similar ~= '' then redis.call('HDEL', PREFIX .. 'S:' .. similar, exact) end
    redis.call('DEL', PREFIX .. 'E:' .. exact)
    redis.call('HDEL', SIZES, exact)
    redis.call('ZREM', ORDER, exact)
    redis.call('ZREM', EXPIRY, exact)
    redis.call('HINCRBY', TOTALS, 'bytes', -tonumber(string.match(known, '^%d+')))
    redis.call('HINCRBY', TOTALS, 'entries', -1)
    return 1
end

-- Somebody may remove keys without us, as Redis itself does where its memory is bounded. What each entry
-- takes is the truth then: the order and the totals are made to fit it.
local function mend()
    local count = redis.call('HLEN', SIZES)
    if redis.call('ZCARD', ORDER) == count and total('entries') == count then return end
    local known, bytes = redis.call('HGETALL', SIZES), 0
    for i = 1, #known, 2 do
        bytes = bytes + tonumber(string.match(known[i + 1], '^%d+'))
        redis.call('ZADD', ORDER, 'NX', total('age'), known[i])
    end
    for _, exact in ipairs(redis.call('ZRANGE', ORDER, 0, -1)) do
        if redis.call('HEXISTS', SIZES, exact) == 0 then redis.call('ZREM', ORDER, exact) end
    end
    redis.call('HSET', TOTALS, 'bytes', bytes, 'entries', count)
    local lowest = redis.call('ZRANGE', ORDER, 0, 0, 'WITHSCORES')
    if lowest[1] then redis.call('HSETNX', TOTALS, 'age', string.format('%.0f', tonumber(lowest[2]))) end
end

local function drop_expired(now_ms)
    local expired = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', now_ms, 'LIMIT', 0, 64)
    for _, exact in ipairs(expired) do drop(exact) end
end
"""

# ARGV: exact, similar or nothing, now in ms. Returns 1, the entry's body and device_ns; or 0, the wordings.
FIND = Script(
    "find",
    _SHELF
    + """
local found = redis.call('HMGET', PREFIX .. 'E:' .. ARGV[1], 'expires_ms', 'body', 'device_ns')
if found[1] and tonumber(found[1]) > tonumber(ARGV[3]) then return {1, found[2], found[3]} end
local answer = {0}
if ARGV[2] ~= '' then
    for _, each in ipairs(redis.call('HGETALL', PREFIX .. 'S:' .. ARGV[2])) do answer[#answer + 1] = each end
end
return answer
""",
)

# ARGV: now in ms, most bytes, exact, similar, courtesies, scope, size, device_ns, worth_ns, expires in ms,
# body. Returns how many entries went for it.
PUT = Script(
    "put",
    _SHELF
    + """
local now_ms, most, exact, similar = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local size, worth, expires_ms = tonumber(ARGV[7]), tonumber(ARGV[9]), tonumber(ARGV[10])
mend()
drop_expired(now_ms)
drop(exact)
local entry = PREFIX .. 'E:' .. exact
redis.call('HSET', entry, 'similar', similar, 'scope', ARGV[6], 'size', ARGV[7], 'device_ns', ARGV[8],
    'worth_ns', ARGV[9], 'expires_ms', ARGV[10], 'hits', 0, 'body', ARGV[11])
redis.call('PEXPIRE', entry, math.max(1, expires_ms - now_ms) + LEFTOVER)
redis.call('HSET', SIZES, exact, ARGV[7] .. ' ' .. ARGV[6])
redis.call('ZADD', ORDER, total('age') + math.floor(worth * PER_BYTES / size), exact)
redis.call('ZADD', EXPIRY, expires_ms, exact)
redis.call('HINCRBY', TOTALS, 'bytes', size)
redis.call('HINCRBY', TOTALS, 'entries', 1)
if similar ~= '' then
    local wordings = PREFIX .. 'S:' .. similar
    if redis.call('HLEN', wordings) >= LIKE_MAX then
        redis.call('HDEL', wordings, redis.call('HKEYS', wordings)[1])
    end
    redis.call('HSET', wordings, exact, ARGV[5])
    redis.call('PEXPIRE', wordings, math.max(1, expires_ms - now_ms) + LEFTOVER)
end
local evicted = 0
while total('bytes') > most do
    local lowest = redis.call('ZRANGE', ORDER, 0, 0, 'WITHSCORES')
    if not lowest[1] then break end
    redis.call('HSET', TOTALS, 'age', string.format('%.0f', math.max(total('age'), tonumber(lowest[2]))))
    drop(lowest[1])
    evicted = evicted + 1
end
return evicted
""",
)

# ARGV: now in ms, then the entries that were used. Returns entries, bytes.
USE = Script(
    "use",
    _SHELF
    + """
drop_expired(tonumber(ARGV[1]))
for i = 2, #ARGV do
    local entry = PREFIX .. 'E:' .. ARGV[i]
    local found = redis.call('HMGET', entry, 'worth_ns', 'size')
    if found[1] then
        local hits = redis.call('HINCRBY', entry, 'hits', 1)
        local each = math.floor(tonumber(found[1]) * PER_BYTES / tonumber(found[2]))
        redis.call('ZADD', ORDER, 'XX', total('age') + (hits + 1) * each, ARGV[i])
    end
end
return {total('entries'), total('bytes')}
""",
)

# ARGV: entries. Returns how many of them there were.
DROP = Script(
    "drop",
    _SHELF
    + """
local dropped = 0
for i = 1, #ARGV do dropped = dropped + drop(ARGV[i]) end
return dropped
""",
)

# ARGV: entries. Returns how many there are, their bytes, uses, and device nanoseconds saved, in text.
SUM = Script(
    "sum",
    _SHELF
    + """
local entries, bytes, hits, saved = 0, 0, 0, 0
for i = 1, #ARGV do
    local found = redis.call('HMGET', PREFIX .. 'E:' .. ARGV[i], 'size', 'hits', 'device_ns')
    if found[1] then
        entries, bytes, hits = entries + 1, bytes + tonumber(found[1]), hits + tonumber(found[2])
        saved = saved + tonumber(found[2]) * tonumber(found[3])
    end
end
return {entries, bytes, hits, string.format('%.0f', saved)}
""",
)
