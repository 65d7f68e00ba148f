"""Where trainer and replicas meet: blobs, versions, channels and epochs; no torch.

`open_store` gives a `Store` by URL; `model_store.publication` publishes and rolls back,
`model_store.collection` removes what nobody needs, `model_store.checking` finds damage.
"""

from model_store.open import open_store
from model_store.store import Store

__all__ = ["Store", "open_store"]
