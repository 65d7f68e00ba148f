"""`python -m benchmarks.engines`: a forward pass by engine, precision and batch size.

For each model: its Python code, its exported graph (with the checks at every call, and as the
replica runs it) and the graph compiled, in each precision, filled and verified as a load does. A
cell is the median of the passes that fit into half a second, in CPU time where there is one thread
(what else the machine does then counts little), else in wall time. Compiling is timed too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from uuid import uuid4

import torch

from benchmarks.minilm import available
from benchmarks.report import conditions, table_console, table_of
from chassis.errors import HeadraceError
from headrace import Publisher
from headrace.values import Value, copied
from inference_service.architecture import Architecture, Choice
from inference_service.engines.eager import Eager
from inference_service.engines.engine import COMPILED, EXPORTED
from inference_service.engines.exported import Exported
from inference_service.fill import Fill
from inference_service.instance import Instance
from inference_service.precision import Precision
from inference_service.rehearsal import Rehearsal
from model_store import Store, open_store
from model_store.records import Manifest

CPU = torch.device("cpu")
PASSES_S = 0.5
LEAST_PASSES = 7
Row = tuple[str, str, dict[int, float], str]


class Bench:
    """One model, published; `rows` yields the table."""

    def __init__(self, store: Store, path: str) -> None:
        module, _, name = path.partition(":")
        self.model = getattr(import_module(module), name)()
        with Publisher(store, self.model) as publisher:
            version = publisher.publish(self.model.build())
        self._store = store
        self._manifest: Manifest = store.manifest(self.model.name, version)
        self._architecture = Architecture(store, CPU, allow_import_path=False)
        probe = self._manifest.probe
        golden = store.read_blob(probe.digest) if probe is not None else None
        self._rehearsal = Rehearsal(self._manifest.signature, probe, golden)

    def rows(self, precisions: Sequence[str]) -> Iterator[Row]:
        """(engine, precision, seconds by batch size, remark)."""
        for name in precisions:
            precision = Precision(name)
            yield "eager", name, *self._tried(partial(self._eager, precision))
            yield (
                "exported, checks at each call",
                name,
                *self._tried(partial(self._checking, precision)),
            )
            for engine in (EXPORTED, COMPILED):
                started = time.perf_counter()
                seconds, remark = self._tried(
                    partial(self._architecture.build, self._manifest, Choice(engine, precision))
                )
                if engine == COMPILED and not remark:
                    remark = f"compiled and measured in {time.perf_counter() - started:.0f} s"
                yield engine, name, seconds, remark

    def close(self) -> None:
        """Removes what was compiled."""
        self._architecture.compiler.close()

    def _eager(self, precision: Precision) -> Instance:
        module = self.model.build().eval()
        return self._instance(module, Eager(module), precision)

    def _checking(self, precision: Precision) -> Instance:
        instance = self._architecture.build(self._manifest, Choice(EXPORTED, precision))
        assert isinstance(instance.engine, Exported)
        # Its module as a whole: torch's checks are hooks of the call.
        instance.engine = Eager(instance.engine.module)
        return instance

    def _instance(self, module: torch.nn.Module, engine: Eager, precision: Precision) -> Instance:
        return Instance(
            module,
            program=self._manifest.program,
            signature=self._manifest.signature,
            device=CPU,
            engine=engine,
            precision=precision,
        )

    def _tried(self, build: Callable[[], Instance]) -> tuple[dict[int, float], str]:
        try:
            instance = build()
            if instance.why_not:
                return {}, instance.why_not
            return self._measured(instance), ""
        except HeadraceError as error:
            return {}, f"{error.reason}: {error.message}"

    def _measured(self, instance: Instance) -> dict[int, float]:
        instance.materialize()
        fill = Fill(self._store, self._manifest, (), lambda: None)
        fill.install(instance)
        fill.verify(instance)
        self._rehearsal.warm_up(instance)
        self._rehearsal.prove(instance)
        most = self.model.max_batch_size
        return {rows: self._median_s(instance, rows) for rows in (1, 8, most)}

    def _median_s(self, instance: Instance, rows: int) -> float:
        inputs: list[Value] = [copied(v, CPU) for v in self._rehearsal.inputs(rows)]
        spans: list[float] = []
        over_at = time.perf_counter() + PASSES_S
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        with torch.inference_mode():
            instance.run(inputs)
            while len(spans) < LEAST_PASSES or time.perf_counter() < over_at:
                started = clock()
                instance.run(inputs)
                spans.append(clock() - started)
        return statistics.median(spans)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    known = ["examples.digits:Digits", *(["benchmarks.minilm:MiniLm"] if available() else [])]
    parser.add_argument("--model", action="append", metavar="MODULE:CLASS", default=[])
    parser.add_argument("--precision", action="append", default=[])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    console = table_console()
    console.print(conditions("benchmarks.engines"))
    for path in given.model or known:
        with open_store(f"memory://engines-{uuid4().hex}") as store:
            bench = Bench(store, path)
            sizes = sorted({1, 8, bench.model.max_batch_size})
            table = table_of("engine", "precision", *(f"{rows} rows, us" for rows in sizes), "")
            for engine, precision, seconds, remark in bench.rows(
                given.precision or ["published", "bf16"]
            ):
                cells = [f"{seconds[r] * 1e6:,.0f}" if r in seconds else "-" for r in sizes]
                table.add_row(engine, precision, *cells, remark)
            console.print(path)
            console.print(table)
            bench.close()


if __name__ == "__main__":
    main()
