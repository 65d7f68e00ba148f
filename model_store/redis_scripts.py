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
"""

from __future__ import annotations

IDENTITY = "headrace:{store}:identity"
MODELS = "headrace:{store}:models"

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

# KEYS: identity, state, changes, manifests, commits, models, the blobs.
# ARGV: identity, epoch, version, commit id, record, model.
CREATE_VERSION = (
    _IDENTIFIED
    + """
local made = redis.call('HGET', KEYS[5], ARGV[4])
if made then return {'DONE', made} end
"""
    + _FENCED
    + """
local answer = {'MISSING'}
for index = 7, #KEYS do
  if redis.call('EXISTS', KEYS[index]) == 0 then answer[#answer + 1] = index - 7 end
end
if #answer > 1 then return answer end
local last = tonumber(redis.call('HGET', KEYS[2], 'last') or '0')
if last + 1 ~= tonumber(ARGV[3]) then return {'RACED'} end
"""
    + _CHANGED
    + """
redis.call('HSET', KEYS[4], ARGV[3], ARGV[5])
redis.call('HSET', KEYS[5], ARGV[4], ARGV[3])
redis.call('HSET', KEYS[2], 'last', ARGV[3])
redis.call('SADD', KEYS[6], ARGV[6])
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

# KEYS: identity, blob, its chunks. ARGV: identity, what the blob's key holds.
# Chunks expire until the blob exists, so that a killed publisher leaves nothing for ever.
COMMIT_BLOB = (
    _IDENTIFIED
    + """
for index = 3, #KEYS do
  if redis.call('EXISTS', KEYS[index]) == 0 then return {'CHUNK'} end
end
redis.call('SET', KEYS[2], ARGV[2])
for index = 3, #KEYS do redis.call('PERSIST', KEYS[index]) end
return {'OK'}
"""
)
