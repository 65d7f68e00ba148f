"""Whether this replica should be sent requests. Owned by the event loop."""

from __future__ import annotations

from collections.abc import Mapping

from inference_service.served import ServedModel


class Readiness:
    """Ready once every model has a version, until draining begins."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether all models answer and the replica is not draining."""
        return not self.draining and all(served.ready for served in self._models.values())

    def model_ready(self, name: str, version: int) -> bool:
        """Whether `name` would be answered, by `version` unless 0; False for an unknown model."""
        served = self._models.get(name)
        if served is None or self.draining:
            return False
        return served.slots.holds(version) if version else served.ready
