"""Which rows a step trains on: a seeded order that depends on nothing but the step's number.

So a job that resumes at a step goes on with exactly the rows that would have come. A pass over the
data drops the rows that fill no whole batch; the next pass draws another order.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from torch.utils.data import Dataset, DistributedSampler, default_collate

from chassis.errors import InvalidArgument


class Batches:
    """Batches of `rows` of a map-style dataset, for one rank of `world`.

    Raises InvalidArgument (BAD_DATASET) where there is less than a row for each rank.
    """

    def __init__(
        self, dataset: Dataset[Any], rows: int, *, seed: int, rank: int, world: int
    ) -> None:
        total = len(dataset) if isinstance(dataset, Sized) else 0
        if total < world or rows < 1:
            raise InvalidArgument(
                "BAD_DATASET",
                f"the dataset has {total} rows and batch_size is {rows}; expected a row for each "
                f"of {world} processes and a batch of at least 1",
            )
        self._dataset = dataset
        self._rows = min(rows, total // world)
        self._per_pass = total // world // self._rows
        self._sampler: DistributedSampler[Any] = DistributedSampler(
            dataset, world, rank, shuffle=True, seed=seed % 2**32, drop_last=True
        )
        self._pass = -1
        self._order: list[int] = []

    def at(self, step: int) -> Any:
        """The collated batch of the step after `step` steps."""
        number, offset = divmod(step, self._per_pass)
        if number != self._pass:
            self._sampler.set_epoch(number)
            self._order = list(self._sampler)
            self._pass = number
        first = offset * self._rows
        return default_collate(
            [self._dataset[row] for row in self._order[first : first + self._rows]]
        )
