"""Axes as products and sums of factors, and which factors are one and the same: union-find with refinement.

An axis of length 7 * 7 * 64 made by flattening a feature map is the product of three factors. An axis
made by concatenation is a sum: its segments have factors of their own. Two axes that must be
permuted alike are unified, which splits factors where their cuts do not yet agree:

    factors = Factors()
    flat, h, w, c = (factors.new(n) for n in (3136, 7, 7, 64))
    factors.unify(flat, h + w + c)     # every axis that held `flat` now has the factors h, w, c
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sum:
    """Segments of an axis, one after the other."""

    parts: tuple["Product", ...]


Product = tuple[int | Sum, ...]
"""The factors of an axis from the slowest to the fastest: ids of atoms, or sums. Length 1 is `()`."""

MISALIGNED = "it is cut in ways that do not line up"


class Factors:
    """All atoms of one trace. An atom is free, or pinned for a reason, or refined into a product."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int] = []
        self._reason: list[str | None] = []
        self._refined: list[Product | None] = []
        self._origin: list[int | None] = []

    def new(self, size: int, reason: str | None = None, origin: int | None = None) -> Product:
        """A fresh factor of this length; pinned if `reason` is given. `origin` marks what it came from."""
        return () if size == 1 else (self._atom(size, reason, origin),)

    def _atom(self, size: int, reason: str | None, origin: int | None) -> int:
        self._parent.append(len(self._parent))
        self._size.append(size)
        self._reason.append(reason)
        self._refined.append(None)
        self._origin.append(origin)
        return len(self._parent) - 1

    def find(self, atom: int) -> int:
        """The atom that stands for all those unified with this one."""
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    def reason(self, atom: int) -> str | None:
        """Why this atom is pinned; None if it is free."""
        return self._reason[self.find(atom)]

    def origin(self, atom: int) -> int | None:
        """The mark that `new` was given for this atom, or for the one that it was split off."""
        return self._origin[atom]

    def length(self, product: Product) -> int:
        """The length of an axis of these factors."""
        return math.prod(
            sum(self.length(part) for part in term.parts) if isinstance(term, Sum) else self._size[term]
            for term in product
        )

    def expand(self, product: Product) -> Product:
        """The product with every refined atom replaced by what it was refined into, and sums in sums flattened."""
        # A stack of our own: refinements of refinements can be nested deeply. Products and sums take turns.
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
                elif (inner := self._inside(item)) is None:
                    done.append(item)
                else:
                    todo.extend(reversed(inner))
                continue
            stack.pop()
            if not stack:
                return tuple(done)
            around = stack[-1][1]
            if in_sum:
                around.extend(done[0] if len(done) == 1 else (Sum(tuple(done)),))
            else:
                around.extend(done[0].parts if len(done) == 1 and isinstance(done[0], Sum) else (tuple(done),))

    def _inside(self, atom: int) -> Product | None:
        # An atom with an origin gets children with that origin, unified with those of its class.
        root = self.find(atom)
        shared = self._refined[root]
        if shared is None or atom == root or self._origin[atom] is None:
            return shared
        if (own := self._refined[atom]) is None:
            own = self._refined[atom] = self._copy(shared, self._origin[atom])
        return own

    def _copy(self, product: Product, origin: int | None) -> Product:
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
        """The atoms of a product, also those inside its sums, from the slowest to the fastest."""
        for term in self.expand(product):
            if isinstance(term, Sum):
                for part in term.parts:
                    yield from self.atoms(part)
            else:
                yield term

    def pin(self, product: Product, reason: str) -> None:
        """Never permute these factors. The first reason stays."""
        for atom in self.atoms(product):
            root = self.find(atom)
            if self._reason[root] is None:
                self._reason[root] = reason

    def pinned(self, product: Product) -> bool:
        """Whether nothing of this product is free."""
        return all(self.reason(atom) is not None for atom in self.atoms(product))

    def why(self, product: Product) -> str:
        """Why a pinned product is pinned."""
        return next((why for atom in self.atoms(product) if (why := self.reason(atom))), "its positions are told apart")

    def unify(self, p: Product, q: Product) -> None:
        """Permute two axes of equal length alike. What cannot be lined up is pinned."""
        todo = [(p, q)]
        while todo:
            p, q = (self.expand(side) for side in todo.pop())
            if p == q:
                continue
            if self.pinned(p) or self.pinned(q):
                why = self.why(p) if self.pinned(p) else self.why(q)
                self.pin(p, why)
                self.pin(q, why)
                continue
            m, n = self.length(p[:1]), self.length(q[:1])
            if m == n:
                todo.append((p[1:], q[1:]))
                todo.extend(self._pairs(p[0], q[0]))
            else:
                aligned = self._align(p, q, n) if m > n else self._align(q, p, m)
                todo.extend(self._skip(p, q) if aligned is None else aligned)

    def _pairs(self, a: int | Sum, b: int | Sum) -> list[tuple[Product, Product]]:
        """What must be unified so that two factors of one length are: the work itself for two atoms."""
        if isinstance(a, Sum) and isinstance(b, Sum):
            ends = [self._ends(term) for term in (a, b)]
            sizes = _gaps(sorted({*ends[0], *ends[1]}))
            pieces = [self.cut((term,), sizes) for term in (a, b)]
            if pieces[0] is None or pieces[1] is None:
                self.pin((a, b), MISALIGNED)
                return []
            return list(zip(pieces[0], pieces[1], strict=True))
        if isinstance(a, Sum):
            a, b = b, a
        assert not isinstance(a, Sum)
        root = self.find(a)
        reason = self._reason[root]
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
        """The products with p's first factor, longer than q's of length n, cut to match; None if impossible."""
        head, m = p[0], self.length(p[:1])
        if isinstance(head, Sum):
            for k in range(2, len(q) + 1):
                if self.length(q[:k]) == m:
                    pieces = self.cut(q[:k], [self.length(part) for part in head.parts])
                    return None if pieces is None else [(p[1:], q[k:]), *zip(head.parts, pieces, strict=True)]
            return None
        if m % n:
            return None
        root = self.find(head)
        reason, origin = self._reason[root], self._origin[root]
        split = self.new(n, reason, origin) + self.new(m // n, reason, origin)
        if reason is not None:  # what is pinned is not refined, so that it stays small
            return [(split + p[1:], q)]
        self._refined[root] = split
        return [(p, q)]

    def _skip(self, p: Product, q: Product) -> list[tuple[Product, Product]]:
        """Pin two products up to where their lengths agree again; what is left of them."""
        i = j = 1
        while (m := self.length(p[:i])) != (n := self.length(q[:j])):
            assert max(i, j) <= len(p) + len(q), "two axes of unequal length"
            i, j = (i + 1, j) if m < n else (i, j + 1)
        self.pin(p[:i] + q[:j], MISALIGNED)
        return [(p[i:], q[j:])]

    def cut(self, product: Product, sizes: Sequence[int]) -> list[Product] | None:
        """The segments of an axis, of these lengths; None if a factor would be cut across."""
        product = self.expand(product)
        if len(sizes) == 1:
            return [product]
        if self.pinned(product):
            return [self.new(size, self.why(product)) for size in sizes]
        head, rest = product[0], product[1:]
        inner = self.length(rest)
        if any(size % inner for size in sizes):
            return None
        sizes = [size // inner for size in sizes]
        if isinstance(head, Sum):
            pieces = self._cut_sum(head, sizes)
        else:
            root = self.find(head)
            reason = self._reason[root]
            origin = self._origin[root if reason is None else head]
            parts = tuple(self.new(size, reason, origin) for size in sizes)
            if reason is None:
                self._refined[root] = (Sum(parts),)
                (whole,) = self.expand((head,))
                assert isinstance(whole, Sum)
                parts = whole.parts
            pieces = list(parts)
        return None if pieces is None else [piece + rest for piece in pieces]

    def _cut_sum(self, whole: Sum, sizes: Sequence[int]) -> list[Product] | None:
        parts, pieces = list(reversed(whole.parts)), []
        for size in sizes:
            piece: list[Product] = []
            while size:
                part = parts.pop()
                length = self.length(part)
                if length > size:
                    halves = self.cut(part, [size, length - size])
                    if halves is None:
                        return None
                    part, rest = halves
                    parts.append(rest)
                piece.append(part)
                size -= min(size, length)
            pieces.append(self.expand((Sum(tuple(piece)),)))
        return pieces

    def _ends(self, whole: Sum) -> list[int]:
        ends, total = [], 0
        for part in whole.parts:
            total += self.length(part)
            ends.append(total)
        return ends

    def concatenate(self, products: Sequence[Product]) -> Product:
        """The axis of these segments."""
        there = tuple(product for product in products if self.length(product))
        if all(map(self.pinned, there)):
            return self.new(sum(map(self.length, there)), self.why(there[0]) if there else "it is empty")
        return self.expand((Sum(there),))


def _gaps(ends: Sequence[int]) -> list[int]:
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


__all__ = ["MISALIGNED", "Factors", "Product", "Sum"]
