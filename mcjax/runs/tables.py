"""Text tables, and the mean and standard deviation of several runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A text table: the first column is aligned left, the others right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


def mean_and_std(values: Sequence[float]) -> dict[str, Any]:
    """{"mean", "std", "values"}; the standard deviation is the sample's (n - 1), 0 for one value."""
    values = [float(value) for value in values]
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else 0.0
    return {"mean": mean, "std": std, "values": values}


def plus_minus(summary: Mapping[str, float], digits: int = 4, factor: float = 1.0) -> str:
    """The text `mean ± std` of a result of `mean_and_std`, both times `factor`."""
    return f"{factor * summary['mean']:.{digits}f} ± {factor * summary['std']:.{digits}f}"
