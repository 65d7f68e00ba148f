"""Publishers as processes of their own: `python -m tests.model_store.writer`.

Reads one order a line from standard input, forks a writer for it (a start from nothing would take
most of a second) and answers with the writer's exit code, negative for a signal, once it is gone.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass

from chassis import failpoints
from model_store import open_store
from model_store.publication import publish
from tests.model_store.collecting import collected
from tests.model_store.samples import stored


@dataclass(frozen=True)
class Order:
    """Publish, or only create, `count` versions of the steps from `first` on; then, with
    `collect`, collect all that no channel needs.

    `armed` are the failpoints armed before it begins.
    """

    url: str
    first: int
    count: int = 1
    publish: bool = True
    collect: bool = False
    armed: str = ""

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def write(order: Order) -> None:
    failpoints.arm(order.armed)
    with open_store(order.url) as store:
        for step in range(order.first, order.first + order.count):
            manifest = stored(store, step, commit_id=f"step-{step}")
            if order.publish:
                publish(store, manifest)
            else:
                store.create_version(manifest)
        if order.collect:
            collected(store, keep=0)


def forked(order: Order) -> int:
    child = os.fork()
    if child == 0:
        try:
            write(order)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(f"{forked(Order(**json.loads(line)))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
