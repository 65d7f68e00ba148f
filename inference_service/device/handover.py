"""The order of batches and loads at one instance's memory, by marks instead of waiting.

A flip is a pointer on the host; whether the bytes have arrived is the device's to know. So the
lane of batches follows a mark behind the last write, once; and the lane of loads follows a mark
behind the last batch before it overwrites what that batch may still read. A batch that failed half
way has given its pin back with its work still on the device: without the second mark it would be
overwritten while it runs, and write into memory that was given to others.

The slot's lock orders the host's side: nothing fills while something is pinned.
"""

from __future__ import annotations

from inference_service.device.device import IN_ORDER, Device, Mark


class Handover:
    """Of one instance. Each method is called in the thread that has entered the lane it is about.

    A load calls `before_fill`, writes, `after_fill`; a batch `before_use`, computes, `after_use`.
    """

    def __init__(self, device: Device = IN_ORDER) -> None:
        self.device = device
        self._filled: Mark | None = None
        self._used: Mark | None = None

    def before_fill(self) -> None:
        """What the lane entered does from now on comes after every batch so far."""
        used, self._used = self._used, None
        if used is not None:
            self.device.current().follow(used)

    def after_fill(self) -> None:
        """All is written, or put back."""
        self._filled = self.device.current().mark()

    def before_use(self) -> None:
        """What the lane entered does from now on comes after the last write.

        There is one lane of batches, so the first of them follows for all.
        """
        filled, self._filled = self._filled, None
        if filled is not None:
            self.device.current().follow(filled)

    def after_use(self) -> None:
        """A batch is asked for as a whole, or has failed."""
        self._used = self.device.current().mark()

    def wait(self) -> None:
        """Returns once what the lane entered was asked so far is done."""
        self.device.wait(self.device.current().mark())
