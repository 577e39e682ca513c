"""The one form in which a benchmark reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Measured:
    """Several runs of ours and of the stock thing, in one unit."""

    ours: Sequence[float]
    stock: Sequence[float]
    unit: str

    def line(self, name: str) -> str:
        """``name ours stock ratio unit``: medians, and their ratio ours/stock."""
        ours, stock = median(self.ours), median(self.stock)
        return f"{name} {ours:.2f} {stock:.2f} {ours / stock:.2f} {self.unit}"
