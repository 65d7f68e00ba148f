"""The parameter `priority` as a level: 1 leaves first, 0 and what is no level is the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chassis.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Priorities:
    """How many levels there are, and the one of a request that names none of them.

    Raises InvalidArgument (BAD_SETTING).
    """

    levels: int = 3
    default: int = 2

    def __post_init__(self) -> None:
        if self.default > self.levels:
            raise InvalidArgument(
                "BAD_SETTING",
                f"setting gateway.default_priority_level is {self.default}; expected at most "
                f"priority_levels, {self.levels}",
            )

    def level(self, parameters: Any) -> int:
        """The level that a request's parameters ask for.

        Raises InvalidArgument (BAD_PARAMETER) on another type than an integer.
        """
        if "priority" not in parameters:
            return self.default
        choice = parameters["priority"]
        kind = choice.WhichOneof("parameter_choice")
        if kind not in ("int64_param", "uint64_param"):
            raise InvalidArgument(
                "BAD_PARAMETER",
                f"parameter 'priority' must be an integer, 1 to {self.levels} or 0 for the default",
                field="parameters[priority]",
            )
        asked = int(getattr(choice, kind))
        return asked if 1 <= asked <= self.levels else self.default
