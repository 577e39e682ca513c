"""``python -m benchmarks [NAME ...]``: one line each, ``name ours stock ratio unit``."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine

from . import spawn
from .report import Measured

BENCHMARKS: dict[str, Callable[[], Coroutine[object, object, Measured]]] = {
    "spawn-overhead": spawn.measure,
}


def main() -> None:
    """Run the named benchmarks, all by default."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], metavar="NAME")
    names = parser.parse_args().names or list(BENCHMARKS)
    for name in names:
        print(asyncio.run(BENCHMARKS[name]()).line(name), flush=True)


if __name__ == "__main__":
    main()
