"""One thing to send, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

SERVICE = "inference.GRPCInferenceService"
# Longer than any answer may take; a call that ends by it was never answered.
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Shot:
    """A gRPC call of raw frames.

    `label` names it so that a seed brings it back. `parses` tells that each frame is a message of
    the method. `hasty` tells that its own deadline or cancel
    may end it before the server does; `cancel_after_s` None never cancels.
    """

    label: str
    method: str
    frames: tuple[bytes, ...]
    streams: bool = False
    parses: bool = True
    timeout_s: float = PATIENCE_S
    cancel_after_s: float | None = None
    metadata: tuple[tuple[str, str | bytes], ...] = ()

    @property
    def hasty(self) -> bool:
        return self.cancel_after_s is not None or self.timeout_s < PATIENCE_S
