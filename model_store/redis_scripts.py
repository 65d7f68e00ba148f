"""Keys and scripts of the Redis store: what the server does in one step.

Every key starts with `headrace:{store}:`. The tag in braces puts all of them into one slot, so that
a script may check a version's blobs and make the version in one step; a Redis Cluster thus keeps
the whole store on one of its shards, which is the price.

Each script first compares the store's identity, a random value set by the first client, with what
its client saw before: a server that lost its data, or another server, is detected, not trusted.
Each answers with a word and its details; the store turns words into records and errors.

    state       hash: epoch, owner, last (newest version), revision
    manifests   hash: version -> record          channels   hash: name -> record
    commits     hash: commit id -> version       changes    stream: one entry per revision
    leases      hash: version:holder -> when it ends, in milliseconds

Times are the server's, so that no two hosts need to agree.
"""

from __future__ import annotations

IDENTITY = "headrace:{store}:identity"
MODELS = "headrace:{store}:models"
# Written after a commit that replicas have to confirm; its value means nothing.
CONFIRMED = "headrace:{store}:confirmed"
# A sorted set: every blob's hexadecimal digits by when it was last used, in milliseconds.
BLOBS = "headrace:{store}:blobs"

# Entries of the stream of changes wake readers; the revision is the truth, so few are kept.
_CHANGES_KEPT = 16


def model_key(model: str, part: str) -> str:
    """`part` is one of the words above; a model's name holds no colon."""
    return f"headrace:{{store}}:model:{model}:{part}"


def blob_key(hex_digits: str) -> str:
    """Exists if and only if the blob does; holds its size and the size of its chunks."""
    return f"headrace:{{store}}:blob:{hex_digits}"


def chunk_key(hex_digits: str, chunk_bytes: int, index: int) -> str:
    """One part of a blob; the size is in the name, so that chunks of two sizes never mix."""
    return f"headrace:{{store}}:blob:{hex_digits}:{chunk_bytes}:{index}"


_IDENTIFIED = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'LOST'} end
"""

_FENCED = """
local epoch = redis.call('HGET', KEYS[2], 'epoch') or '0'
if ARGV[2] ~= '0' and ARGV[2] ~= epoch then return {'EPOCH', epoch} end
"""

_NOW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""

# The entry's id is the revision, so that a reader waits for what comes after the one it has seen.
# First among the writes: scripts are not undone, and of all writes only this one could be refused
# once the server took the first.
_CHANGED = f"""
local revision = redis.call('HINCRBY', KEYS[2], 'revision', 1)
redis.call('XADD', KEYS[3], 'MAXLEN', {_CHANGES_KEPT}, revision .. '-0', 'revision', revision)
"""

# KEYS: identity, state. ARGV: identity, owner.
ACQUIRE_EPOCH = (
    _IDENTIFIED
    + """
local epoch = redis.call('HINCRBY', KEYS[2], 'epoch', 1)
redis.call('HSET', KEYS[2], 'owner', ARGV[2])
return {'OK', epoch}
"""
)

# KEYS: identity, state, changes, manifests, commits, models, all blobs, the version's blobs.
# ARGV: identity, epoch, version, commit id, record, model.
# A commit of a version that was removed counts no more. Numbers may be left out: they belong to
# versions that a publisher saw and a failover lost.
CREATE_VERSION = (
    _IDENTIFIED
    + """
local made = redis.call('HGET', KEYS[5], ARGV[4])
if made and redis.call('HEXISTS', KEYS[4], made) == 1 then return {'DONE', made} end
"""
    + _FENCED
    + """
local answer = {'MISSING'}
for index = 8, #KEYS do
  if redis.call('EXISTS', KEYS[index]) == 0 then answer[#answer + 1] = index - 8 end
end
if #answer > 1 then return answer end
local last = tonumber(redis.call('HGET', KEYS[2], 'last') or '0')
if tonumber(ARGV[3]) <= last then return {'RACED'} end
"""
    + _CHANGED
    + """
redis.call('HSET', KEYS[4], ARGV[3], ARGV[5])
redis.call('HSET', KEYS[5], ARGV[4], ARGV[3])
redis.call('HSET', KEYS[2], 'last', ARGV[3])
redis.call('SADD', KEYS[6], ARGV[6])
"""
    + _NOW
    + """
for index = 8, #KEYS do redis.call('ZADD', KEYS[7], now, string.sub(KEYS[index], -64)) end
return {'OK'}
"""
)

# KEYS: identity, state, changes, manifests, channels.
# ARGV: identity, epoch, version, name, the record as read before ('' for none), the new record.
# Where the new record is there already, an earlier attempt whose answer was lost has succeeded.
MOVE_CHANNEL = (
    _IDENTIFIED
    + """
local current = redis.call('HGET', KEYS[5], ARGV[4]) or ''
if current == ARGV[6] then return {'OK'} end
if redis.call('HEXISTS', KEYS[4], ARGV[3]) == 0 then return {'VERSION'} end
"""
    + _FENCED
    + """
if current ~= ARGV[5] then return {'RACED'} end
"""
    + _CHANGED
    + """
redis.call('HSET', KEYS[5], ARGV[4], ARGV[6])
return {'OK'}
"""
)

# KEYS: identity, manifests, leases. ARGV: identity, version, version:holder, milliseconds.
LEASE_VERSION = (
    _IDENTIFIED
    + """
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 0 then return {'VERSION'} end
"""
    + _NOW
    + """
local leases = redis.call('HGETALL', KEYS[3])
for index = 1, #leases, 2 do
  if tonumber(leases[index + 1]) <= now then redis.call('HDEL', KEYS[3], leases[index]) end
end
local ends = now + tonumber(ARGV[4])
redis.call('HSET', KEYS[3], ARGV[3], ends)
return {'OK', ends}
"""
)

# KEYS: identity, leases. ARGV: identity. Answers with those that live and when each ends.
LIVE_LEASES = (
    _IDENTIFIED
    + _NOW
    + """
local answer = {'OK'}
local leases = redis.call('HGETALL', KEYS[2])
for index = 1, #leases, 2 do
  if tonumber(leases[index + 1]) > now then
    answer[#answer + 1] = leases[index]
    answer[#answer + 1] = leases[index + 1]
  end
end
return answer
"""
)

# KEYS: identity, state, manifests, commits, leases, models.
# ARGV: identity, the revision as read with the channels, model, then of each version its number
# and its commit id.
# Deletes only, so that a server without memory for anything else can still be freed.
REMOVE_VERSIONS = (
    _IDENTIFIED
    + """
if (redis.call('HGET', KEYS[2], 'revision') or '0') ~= ARGV[2] then return {'RACED'} end
"""
    + _NOW
    + """
local going = {}
for index = 4, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[3], ARGV[index]) == 0 then return {'RACED'} end
  going[ARGV[index]] = true
end
local leases = redis.call('HGETALL', KEYS[5])
for index = 1, #leases, 2 do
  local leased = going[string.match(leases[index], '^%d+')]
  if leased and tonumber(leases[index + 1]) > now then return {'RACED'} end
end
for index = 4, #ARGV, 2 do
  redis.call('HDEL', KEYS[3], ARGV[index])
  redis.call('HDEL', KEYS[4], ARGV[index + 1])
end
if redis.call('HLEN', KEYS[3]) == 0 then redis.call('SREM', KEYS[6], ARGV[3]) end
return {'OK'}
"""
)

# KEYS: identity, blob, all blobs. ARGV: identity, digits. A blob that is there is used now.
USE_BLOB = (
    _IDENTIFIED
    + """
local layout = redis.call('GET', KEYS[2])
if not layout then return {'ABSENT'} end
"""
    + _NOW
    + """
redis.call('ZADD', KEYS[3], now, ARGV[2])
return {'OK', layout}
"""
)

# KEYS: identity, all blobs, blob, its chunks. ARGV: identity, digits, used since.
DELETE_BLOB = (
    _IDENTIFIED
    + """
local used = redis.call('ZSCORE', KEYS[2], ARGV[2])
if not used or tonumber(used) >= tonumber(ARGV[3]) then return {'USED'} end
for index = 3, #KEYS do redis.call('DEL', KEYS[index]) end
redis.call('ZREM', KEYS[2], ARGV[2])
return {'OK'}
"""
)

# KEYS: identity, all blobs, blob, its chunks. ARGV: identity, what the blob's key holds, digits.
# Chunks expire until the blob exists, so that a killed publisher leaves nothing for ever.
COMMIT_BLOB = (
    _IDENTIFIED
    + """
for index = 4, #KEYS do
  if redis.call('EXISTS', KEYS[index]) == 0 then return {'CHUNK'} end
end
"""
    + _NOW
    + """
redis.call('SET', KEYS[3], ARGV[2])
redis.call('ZADD', KEYS[2], now, ARGV[3])
for index = 4, #KEYS do redis.call('PERSIST', KEYS[index]) end
return {'OK'}
"""
)
