"""Where the free factors of an axis lie on it."""

from collections.abc import Sequence
from typing import NamedTuple

from mcjax.symmetry.infer.factors import Factors, Product, Sum


class Piece(NamedTuple):
    """The factor `atom` lies on the positions start to stop of an axis, which have length outer * n * inner."""

    atom: int
    start: int
    stop: int
    outer: int
    inner: int

    def overlaps(self, other: "Piece") -> bool:
        """Whether two pieces of one axis share positions."""
        return self.start < other.stop and other.start < self.stop


def pieces(factors: Factors, product: Product) -> list[Piece]:
    """One piece for every place where a free factor occurs, from the first position to the last.

    `atom` is the one that stands for its class. Segments inside a product come once for every index
    of the factors before them; equal segments in a row are one piece with a larger `outer`.
    """
    return _pieces(factors, _canonical(factors, product), 0)


# A canonical product names a free factor by the root of its class, and one that stays by minus its length.
def _canonical(factors: Factors, product: Product) -> Product:
    terms: list[int | Sum] = []
    for term in factors.expand(product):
        if isinstance(term, Sum):
            terms.append(Sum(tuple(_canonical(factors, part) for part in term.parts)))
        else:
            free = factors.reason(term) is None
            terms.append(factors.find(term) if free else -factors.length((term,)))
    return tuple(terms)


def _pieces(factors: Factors, product: Product, start: int) -> list[Piece]:
    found: list[Piece] = []
    stop, outer = start + _length(factors, product), 1
    for i, term in enumerate(product):
        size, inner = _length(factors, (term,)), _length(factors, product[i + 1 :])
        if isinstance(term, Sum):
            for copy in range(outer):
                at = start + copy * size * inner
                for count, part in _runs(term.parts):
                    length = count * _length(factors, part)
                    if _free(part):
                        found += _pieces(factors, (-count, *part, -inner), at)
                    at += length * inner
        elif term >= 0:
            found.append(Piece(term, start, stop, outer, inner))
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


def _free(product: Product) -> bool:
    return any(any(map(_free, term.parts)) if isinstance(term, Sum) else term >= 0 for term in product)


def _runs(parts: Sequence[Product]) -> list[tuple[int, Product]]:
    runs: list[tuple[int, Product]] = []
    for part in parts:
        if runs and runs[-1][1] == part:
            runs[-1] = (runs[-1][0] + 1, part)
        else:
            runs.append((1, part))
    return runs
