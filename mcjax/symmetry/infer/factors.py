"""Axes as products and sums of factors, and classes of factors that are permuted together: union-find with refinement.

An axis of length 7 * 7 * 64 that results from flattening a feature map is the product of three factors. An axis that
results from concatenation is a sum, whose segments have their own factors. Two axes that must be permuted together are
unified, which splits factors wherever the two factorisations differ::

    factors = Factors()
    flat, h, w, c = (factors.new(n) for n in (3136, 7, 7, 64))
    factors.unify(flat, h + w + c)     # every axis that held `flat` now has the factors h, w, c
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any


@dataclass(frozen=True)
class Sum:
    """Segments of an axis, one after the other."""

    parts: tuple["Product", ...]


Product = tuple[int | Sum, ...]
"""The factors of an axis from the slowest to the fastest: ids of atoms, or sums. An axis of length 1 is `()`."""

MISALIGNED = "it is cut in ways that do not line up"


class Factors:
    """All atoms of one trace, in classes. The root of a class is free, pinned with a reason, or refined into a product.

    The atoms of a free class of n units may be permuted by any permutation of n, the same one for all of them.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int] = []
        self._reason: list[str | None] = []
        self._refined: list[Product | None] = []
        self._origin: list[int | None] = []

    def new(self, size: int, reason: str | None = None, origin: int | None = None) -> Product:
        """An axis of one new factor.

        Args:
            size: Length of the axis.
            reason: Why the factor is pinned. None: it is free.
            origin: A mark that the factor and its refinements keep: the number of a leaf's axis.

        Returns:
            The product of the new atom; `()` if the length is 1.
        """
        return () if size == 1 else (self._atom(size, reason, origin),)

    def _atom(self, size: int, reason: str | None, origin: int | None) -> int:
        self._parent.append(len(self._parent))
        self._size.append(size)
        self._reason.append(reason)
        self._refined.append(None)
        self._origin.append(origin)
        return len(self._parent) - 1

    def find(self, atom: int) -> int:
        """The root of an atom's class, with path halving."""
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    def is_free(self, atom: int) -> bool:
        """Whether the class of this atom may be permuted."""
        return self._reason[self.find(atom)] is None

    def origin(self, atom: int) -> int | None:
        """The origin of this atom, or of the atom that was refined into it."""
        return self._origin[atom]

    def length(self, product: Product) -> int:
        """The length of an axis of these factors."""
        return math.prod(
            sum(self.length(part) for part in term.parts) if isinstance(term, Sum) else self._size[term]
            for term in product
        )

    def expand(self, product: Product) -> Product:
        """The product with every refined atom replaced by its refinement, and with sums inside sums flattened."""
        # An explicit stack, since refinements can be nested deeply. Frames of products and of sums alternate: each
        # holds the remaining terms or parts, in reverse, and the expanded ones.
        stack: list[tuple[list[Any], list[Any]]] = [(list(reversed(product)), [])]
        while True:
            todo, done = stack[-1]
            in_sum = len(stack) % 2 == 0
            if todo:
                item = todo.pop()
                if in_sum:
                    stack.append((list(reversed(item)), []))
                elif isinstance(item, Sum):
                    stack.append((list(reversed(item.parts)), []))
                elif (refined := self._refinement(item)) is None:
                    done.append(item)
                else:
                    todo.extend(reversed(refined))
                continue
            stack.pop()
            if not stack:
                return tuple(done)
            around = stack[-1][1]
            if in_sum:  # a sum is done: its only part itself, or one term of the product around it
                around.extend(done[0] if len(done) == 1 else (Sum(tuple(done)),))
            else:  # a part is done: the parts of its only sum, or one part of the sum around it
                around.extend(done[0].parts if len(done) == 1 and isinstance(done[0], Sum) else (tuple(done),))

    def _refinement(self, atom: int) -> Product | None:
        """The refinement of an atom, if any: its root's product, copied if the atom has an origin."""
        root = self.find(atom)
        shared = self._refined[root]
        if shared is None or atom == root or self._origin[atom] is None:
            return shared
        if (own := self._refined[atom]) is None:
            own = self._refined[atom] = self._copy(shared, self._origin[atom])
        return own

    def _copy(self, product: Product, origin: int | None) -> Product:
        """The product with new atoms of this origin, each in the class of the old one."""
        copied: list[int | Sum] = []
        for term in self.expand(product):
            if isinstance(term, Sum):
                copied.append(Sum(tuple(self._copy(part, origin) for part in term.parts)))
            else:
                twin = self._atom(self._size[term], None, origin)
                self._parent[twin] = self.find(term)
                copied.append(twin)
        return tuple(copied)

    def atoms(self, product: Product) -> Iterable[int]:
        """The atoms of a product, including those inside its sums, from the slowest to the fastest."""
        for term in self.expand(product):
            if isinstance(term, Sum):
                for part in term.parts:
                    yield from self.atoms(part)
            else:
                yield term

    def pin(self, product: Product, reason: str) -> None:
        """Pin these factors, so that they are never permuted. A factor that is pinned already keeps its reason."""
        for atom in self.atoms(product):
            root = self.find(atom)
            if self._reason[root] is None:
                self._reason[root] = reason

    def is_pinned(self, product: Product) -> bool:
        """Whether no factor of this product is free."""
        return not any(map(self.is_free, self.atoms(product)))

    def reason(self, product: Product) -> str:
        """Why the first pinned factor of this product is pinned."""
        reasons = (self._reason[self.find(atom)] for atom in self.atoms(product))
        return next(filter(None, reasons), "its positions are told apart")

    def unify(self, p: Product, q: Product) -> None:
        """Unify two axes of equal length: they are permuted together. Factors that cannot be aligned are pinned."""
        todo = [(p, q)]
        while todo:
            p, q = (self.expand(side) for side in todo.pop())
            if p == q:
                continue
            # A pinned side pins the other, and so does one without entries, whose factors need not line up.
            if self.is_pinned(p) or self.is_pinned(q) or not self.length(p):
                why = self.reason(p) if self.is_pinned(p) else self.reason(q)
                self.pin(p, why)
                self.pin(q, why)
                continue
            # First factors of equal length are unified; otherwise the longer one is cut to match the shorter.
            m, n = self.length(p[:1]), self.length(q[:1])
            if m == n:
                todo.append((p[1:], q[1:]))
                todo.extend(self._unify_terms(p[0], q[0]))
            else:
                aligned = self._align(p, q, n) if m > n else self._align(q, p, m)
                todo.extend(self._pin_misaligned(p, q) if aligned is None else aligned)

    def _unify_terms(self, a: int | Sum, b: int | Sum) -> list[tuple[Product, Product]]:
        """Unify two terms of equal length. Returns the pairs of products that remain to be unified."""
        # Two sums are cut at the ends of both, and their segments are unified.
        if isinstance(a, Sum) and isinstance(b, Sum):
            ends = {end for term in (a, b) for end in accumulate(map(self.length, term.parts))}
            sizes = [stop - start for start, stop in pairwise(sorted({0, *ends}))]
            segments = [self.cut((term,), sizes) for term in (a, b)]
            if segments[0] is None or segments[1] is None:
                self.pin((a, b), MISALIGNED)
                return []
            return list(zip(segments[0], segments[1], strict=True))
        if isinstance(a, Sum):
            a, b = b, a
        assert not isinstance(a, Sum)
        root = self.find(a)
        reason = self._reason[root]
        # A free atom is refined into the sum, a pinned one pins it; two atoms have their classes merged.
        if isinstance(b, Sum):
            if reason is None:
                self._refined[root] = (b,) if self._origin[root] is None else self._copy((b,), self._origin[root])
            else:
                self.pin((b,), reason)
        elif (other := self.find(b)) != root:
            self._parent[other] = root
            self._reason[root] = reason or self._reason[other]
        return []

    def _align(self, p: Product, q: Product, n: int) -> list[tuple[Product, Product]] | None:
        """Cut the first factor of p to match the shorter one of q, of length n. Returns None if that is impossible."""
        head, m = p[0], self.length(p[:1])
        # A sum is matched with the first factors of q that have its length together, cut into its segments.
        if isinstance(head, Sum):
            for k in range(2, len(q) + 1):
                if self.length(q[:k]) == m:
                    segments = self.cut(q[:k], [self.length(part) for part in head.parts])
                    return None if segments is None else [(p[1:], q[k:]), *zip(head.parts, segments, strict=True)]
            return None
        # An atom of length m is refined into factors of lengths n and m / n.
        if m % n:
            return None
        root = self.find(head)
        reason, origin = self._reason[root], self._origin[root]
        split = self.new(n, reason, origin) + self.new(m // n, reason, origin)
        if reason is not None:  # pinned atoms are not refined, which keeps their products short
            return [(split + p[1:], q)]
        self._refined[root] = split
        return [(p, q)]

    def _pin_misaligned(self, p: Product, q: Product) -> list[tuple[Product, Product]]:
        """Pin two products up to where their lengths agree again, and return what follows in both."""
        i = j = 1
        while (m := self.length(p[:i])) != (n := self.length(q[:j])):
            assert max(i, j) <= len(p) + len(q), "two axes of unequal length"
            i, j = (i + 1, j) if m < n else (i, j + 1)
        self.pin(p[:i] + q[:j], MISALIGNED)
        return [(p[i:], q[j:])]

    def cut(self, product: Product, sizes: Sequence[int]) -> list[Product] | None:
        """The segments of an axis, of these lengths; None if a boundary lies inside the faster factors."""
        product = self.expand(product)
        if len(sizes) == 1:
            return [product]
        if self.is_pinned(product):
            return [self.new(size, self.reason(product)) for size in sizes]
        # The slowest factor alone is cut, so every length is a multiple of the faster ones.
        head, rest = product[0], product[1:]
        inner = self.length(rest)
        if any(size % inner for size in sizes):
            return None
        sizes = [size // inner for size in sizes]
        if isinstance(head, Sum):
            segments = self._cut_sum(head, sizes)
        else:
            # An atom is refined into the sum of its segments.
            root = self.find(head)
            reason = self._reason[root]
            origin = self._origin[root if reason is None else head]
            parts = tuple(self.new(size, reason, origin) for size in sizes)
            if reason is None:
                self._refined[root] = (Sum(parts),)
                (refined,) = self.expand((head,))
                assert isinstance(refined, Sum)
                parts = refined.parts
            segments = list(parts)
        return None if segments is None else [segment + rest for segment in segments]

    def _cut_sum(self, whole: Sum, sizes: Sequence[int]) -> list[Product] | None:
        parts, segments = list(reversed(whole.parts)), []
        for size in sizes:
            # Collect parts until the segment is full; cut the last one if it is too long.
            segment: list[Product] = []
            while size:
                part = parts.pop()
                length = self.length(part)
                if length > size:
                    halves = self.cut(part, [size, length - size])
                    if halves is None:
                        return None
                    part, rest = halves
                    parts.append(rest)
                segment.append(part)
                size -= min(size, length)
            segments.append(self.expand((Sum(tuple(segment)),)))
        return segments

    def concatenate(self, products: Sequence[Product]) -> Product:
        """The concatenation of these segments."""
        segments = tuple(product for product in products if self.length(product))
        if all(map(self.is_pinned, segments)):
            return self.new(sum(map(self.length, segments)), self.reason(segments[0]) if segments else "it is empty")
        return self.expand((Sum(segments),))


__all__ = ["MISALIGNED", "Factors", "Product", "Sum"]
