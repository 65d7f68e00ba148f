"""The models that the gateway knows: what each takes and gives, and who says so.

A model is known from the first endpoint that describes it until the process ends: while its last
replica restarts, its requests wait instead of being told that it does not exist. Endpoints that
describe a model otherwise than most do are not used for it. Whether an endpoint is healthy is
decided elsewhere; only the claims of healthy ones come here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from chassis.errors import NotFound
from chassis.telemetry import logger
from chassis.tensors import Signature
from gateway.policy.agreement import agreed

log = logger(__name__)

# What an endpoint says of its models: signature by name.
Claims = Mapping[str, Signature]
MAX_NAMES_SHOWN = 20

_ids = itertools.count(1)


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model as requests are checked against it.

    `signature.max_batch_size` is in rows and already capped by the gateway's setting; `claimed`
    is the signature as endpoints give it. `fixed_rows`: every row of an input has one shape, so
    all requests can be joined.
    """

    name: str
    claimed: Signature
    signature: Signature
    fixed_rows: bool
    id: int

    @classmethod
    def of(cls, name: str, claimed: Signature, max_batch_size: int) -> ServedModel:
        """`max_batch_size` 0 leaves the model's own."""
        own = claimed.max_batch_size
        signature = replace(claimed, max_batch_size=min(own, max_batch_size or own))
        fixed = all(-1 not in spec.shape[1:] for spec in claimed.inputs)
        return cls(name, claimed, signature, fixed or not own, next(_ids))


class Catalog:
    """Known models by name."""

    def __init__(self, *, max_batch_size: int = 0) -> None:
        self._max_batch_size = max_batch_size
        self._models: dict[str, ServedModel] = {}
        # Not served though endpoints may still describe them; kept for the day they come back.
        self._withdrawn: dict[str, ServedModel] = {}
        self._unwanted: set[str] = set()
        self._odd: set[tuple[str, str]] = set()

    def settle(self, claims: Mapping[str, Claims]) -> None:
        """Takes in what healthy endpoints, by address, say of their models now."""
        names = {name for described in claims.values() for name in described}
        for name in sorted(names):
            given = [described[name] for described in claims.values() if name in described]
            known = self._known(name)
            chosen = agreed(known.claimed if known else None, given)
            if chosen is not None and (known is None or known.claimed != chosen):
                models = self._withdrawn if name in self._unwanted else self._models
                models[name] = ServedModel.of(name, chosen, self._max_batch_size)
                log.info("model described", model=name, max_batch_size=chosen.max_batch_size)
        self._note_odd(claims)

    def agrees(self, name: str, claimed: Signature) -> bool:
        """Whether this description of the model is the one that counts."""
        known = self._known(name)
        return known is not None and known.claimed == claimed

    def withdraw(self, name: str) -> None:
        """The model is unknown from now on, whatever endpoints say of it, until `restore`.

        Its batches under way go on.
        """
        self._unwanted.add(name)
        model = self._models.pop(name, None)
        if model is not None:
            self._withdrawn[name] = model

    def restore(self, name: str) -> None:
        """The model is as well known as endpoints make it."""
        self._unwanted.discard(name)
        model = self._withdrawn.pop(name, None)
        if model is not None:
            self._models[name] = model

    def get(self, name: str) -> ServedModel | None:
        """The model, None if no endpoint ever described it."""
        return self._models.get(name)

    def model(self, name: str) -> ServedModel:
        """The model. Raises NotFound (MODEL_NOT_FOUND) naming the known ones."""
        known = self._models.get(name)
        if known is None:
            raise self._not_found(name)
        return known

    def names(self) -> list[str]:
        """Known models in order."""
        return sorted(self._models)

    def _known(self, name: str) -> ServedModel | None:
        return self._models.get(name) or self._withdrawn.get(name)

    def _not_found(self, name: str) -> NotFound:
        names = self.names()
        shown = ", ".join(names[:MAX_NAMES_SHOWN]) or "none"
        more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
        return NotFound(
            "MODEL_NOT_FOUND",
            f"model {name[:64]!r} is unknown; known models: {shown}{more}",
            field="model_name",
        )

    def _note_odd(self, claims: Mapping[str, Claims]) -> None:
        odd = set(self._disagreeing(claims))
        for address, name in sorted(odd - self._odd):
            log.warning("endpoint describes a model otherwise", endpoint=address, model=name)
        self._odd = odd

    def _disagreeing(self, claims: Mapping[str, Claims]) -> Iterable[tuple[str, str]]:
        for address, described in claims.items():
            for name, claimed in described.items():
                if not self.agrees(name, claimed):
                    yield address, name
