"""The occurrences of free factors on an axis: segments with an outer and an inner length."""

from collections.abc import Sequence
from typing import NamedTuple

from mcjax.symmetry.infer.factors import Factors, Product, Sum


class Occurrence(NamedTuple):
    """One free factor on a segment of an axis.

    Attributes:
        atom: The atom that represents the factor's class.
        start: First position of the segment.
        stop: Position after the segment, whose length is outer * n * inner for a factor of length n.
        outer: Product of the slower factors of the segment.
        inner: Product of the faster factors of the segment.
    """

    atom: int
    start: int
    stop: int
    outer: int
    inner: int

    def overlaps(self, other: "Occurrence") -> bool:
        """Whether two occurrences on one axis share positions."""
        return self.start < other.stop and other.start < self.stop


def occurrences(factors: Factors, product: Product) -> list[Occurrence]:
    """Every occurrence of a free factor on an axis, from the first position to the last.

    Segments inside a product occur once for every index of the factors before them; successive equal segments are one
    occurrence with a larger `outer`. An axis of length 0 has none.
    """
    return [] if factors.length(product) == 0 else _occurrences(factors, _canonical(factors, product), 0)


def _canonical(factors: Factors, product: Product) -> Product:
    """The product with each free factor replaced by the root of its class, and each pinned one by minus its length."""
    terms: list[int | Sum] = []
    for term in factors.expand(product):
        if isinstance(term, Sum):
            terms.append(Sum(tuple(_canonical(factors, part) for part in term.parts)))
        else:
            terms.append(factors.find(term) if factors.is_free(term) else -factors.length((term,)))
    return tuple(terms)


def _occurrences(factors: Factors, product: Product, start: int) -> list[Occurrence]:
    found: list[Occurrence] = []
    # `outer` is the product of the factors before the term.
    stop, outer = start + _length(factors, product), 1
    for i, term in enumerate(product):
        size, inner = _length(factors, (term,)), _length(factors, product[i + 1 :])
        if isinstance(term, Sum):
            # Every index of the factors before the sum has a copy of its segments.
            for copy in range(outer):
                at = start + copy * size * inner
                for count, part in _runs(term.parts):
                    length = count * _length(factors, part)
                    # A run of equal parts is a product: the repetitions, the part, and the faster factors.
                    if _any_free(part):
                        found += _occurrences(factors, (-count, *part, -inner), at)
                    at += length * inner
        elif term >= 0:
            found.append(Occurrence(term, start, stop, outer, inner))
        outer *= size
    return found


def _length(factors: Factors, product: Product) -> int:
    length = 1
    for term in product:
        if isinstance(term, Sum):
            length *= sum(_length(factors, part) for part in term.parts)
        else:
            length *= -term if term < 0 else factors.length((term,))
    return length


def _any_free(product: Product) -> bool:
    return any(any(map(_any_free, term.parts)) if isinstance(term, Sum) else term >= 0 for term in product)


def _runs(parts: Sequence[Product]) -> list[tuple[int, Product]]:
    """Runs of successive equal parts, as (count, part)."""
    runs: list[tuple[int, Product]] = []
    for part in parts:
        if runs and runs[-1][1] == part:
            runs[-1] = (runs[-1][0] + 1, part)
        else:
            runs.append((1, part))
    return runs


__all__ = ["Occurrence", "occurrences"]
