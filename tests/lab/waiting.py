"""Waiting with a limit and a name: the lab's only way of waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class LabBroken(Exception):
    """A part of the lab did not start, end or answer as it must."""


def wait_for(check: Callable[[], T], what: str, *, limit_s: float, interval_s: float = 0.05) -> T:
    """The first true answer of ``check``.

    Args:
        check: asked again and again; a false answer means "not yet".
        what: completes "waited 10 s for ...".
        limit_s: seconds after which the wait is given up.
        interval_s: seconds between two questions.

    Raises:
        LabBroken: the limit was reached.
    """
    deadline = time.monotonic() + limit_s
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise LabBroken(f"waited {limit_s:g} s for {what}")
        time.sleep(interval_s)
