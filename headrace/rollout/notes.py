"""What was said last of each subject, so that a loop says it once and not at each look."""

from __future__ import annotations

from chassis.telemetry import logger

log = logger(__name__)


class Notes:
    """Of one loop; a subject is a kind of thing and its name."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], str] = {}

    def names(self, kind: str) -> list[str]:
        """The subjects of a kind of which something was said."""
        return [name for known, name in self._said if known == kind]

    def is_new(self, kind: str, name: str, text: str) -> bool:
        """Whether that is another text than the last one."""
        before = self._said.get((kind, name))
        self._said[kind, name] = text
        return before != text

    def trouble(self, kind: str, name: str, why: str) -> None:
        """Something failed and will be tried again."""
        if self.is_new(kind, name, why):
            log.warning("trouble: tried again at each look", **{kind: name}, why=why)

    def clear(self, kind: str, name: str) -> None:
        """It works."""
        if self._said.pop((kind, name), None) is not None:
            log.info("well again", **{kind: name})
