"""Per-request work, behind a narrow door.

Two rooms share the gateway. This one knows single requests: it reads and checks them, holds them
until their batch leaves, joins their rows into contiguous tensors and splits the answer. The room
`gateway.dispatch` knows batches: when one leaves, which endpoint takes it, what a failure means.
Between them is this door and nothing else:

    offer(request, now) -> Admit | Reject   a request asks to wait
    prune(now, fit)                         those that no batch can answer in time end here
    due(now) -> keys                        queues with a batch worth sending
    worth_following(key) -> bool            whether its batch may wait behind a running one
    take(key, rows, now) -> Batch           the next batch, tensors already contiguous
    batch.complete(reply, now)              each request gets its rows of the answer
    batch.fail(error, now)                  each request gets the status
    batch.expire(now), batch.split()        the late end; the rest go on, or each alone
    give_up(key, waited_s, error, now)      requests of a model that no endpoint serves end

Dispatch decides per batch and never sees a request, a protobuf message or a future; nothing here
knows an endpoint. So this room can be replaced by a compiled one without touching a decision.

Each request ends once: whoever answers first (a batch, an expiry, the caller's cancellation) wins
and the others find it done.
"""
