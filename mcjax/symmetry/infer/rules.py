"""What each primitive says about its axes: which are one and the same, and which it treats by position.

A rule takes an `Application` and returns the axes of every result. It must be sound: if the operands
are permuted as their factors say, and every factor that the rule pins stays, then the results are
the old ones, permuted as their factors say. A primitive without a rule pins all that it touches.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mcjax.symmetry.infer.factors import Factors, Product
from mcjax.symmetry.infer.program import Step

Axis = Product | None
"""The factors of one axis; None where the value is the same all along it, so that any permutation will do."""
Axes = tuple[Axis, ...]
Shape = tuple[int, ...]


class Application(NamedTuple):
    """A primitive applied: axes and shapes of the operands, shapes of the results."""

    factors: Factors
    step: Step
    axes: tuple[Axes, ...]
    shapes: tuple[Shape, ...]
    results: tuple[Shape, ...]
    unknown: dict[str, None]
    """Where what has no rule is noted, if it touches anything that could be permuted."""

    @property
    def reason(self) -> str:
        """What to say of a factor that this primitive pins."""
        return f"positions matter to {said(self.step)}"

    def held(self, operand: int, position: int) -> Product:
        """The factors of an axis; a fresh one where the value does not vary along it."""
        axis = self.axes[operand][position]
        return self.factors.new(self.shapes[operand][position]) if axis is None else axis

    def pin(self, operand: int, position: int) -> None:
        """Never permute this axis of an operand."""
        axis = self.axes[operand][position]
        if axis is not None:
            self.factors.pin(axis, self.reason)

    def opaque(self, size: int) -> Product:
        """A fresh axis that is never permuted."""
        return self.factors.new(size, self.reason)

    def join(self, axes: Iterable[Axis]) -> Axis:
        """Axes that are permuted alike, as one."""
        return join(self.factors, axes)


def join(factors: Factors, axes: Iterable[Axis]) -> Axis:
    """Axes that are permuted alike, as one; None if none of them varies."""
    varying = [axis for axis in axes if axis is not None]
    for other in varying[1:]:
        factors.unify(varying[0], other)
    return varying[0] if varying else None


Rule = Callable[[Application], Sequence[Axes]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for these primitives."""

    def register(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, fn))
        return fn

    return register


def unknown(a: Application) -> list[Axes]:
    """The rule of what has no rule: everything that it touches stays in place."""
    reason = f"no rule for {said(a.step)}"
    for axis in (axis for axes in a.axes for axis in axes):
        if axis is not None and not a.factors.pinned(axis):
            a.factors.pin(axis, reason)
            a.unknown[said(a.step)] = None
    return [tuple(a.factors.new(n, reason) for n in shape) for shape in a.results]


def said(step: Step) -> str:
    """A primitive and where in the module it is, as far as the trace knows: `cumsum in Net/Block_0`."""
    return f"{step.name} in {step.where}" if step.where else step.name


ELEMENTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex conj
convert_element_type cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a
igammac imag integer_pow is_finite le le_to lgamma log log1p log2 logistic lt lt_to max min mul mulhi ne neg
nextafter not one_minus_square or polygamma population_count pow real reduce_precision regularized_incomplete_beta
rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan
tanh xor zeta
""".split()  # noqa: SIM905 - eighty names, one a line otherwise


@rule(*ELEMENTWISE)
def _elementwise(a: Application) -> list[Axes]:
    # Operands may be scalars, or have length 1 where the result is longer.
    (shape,) = a.results
    whole = [(axes, own) for axes, own in zip(a.axes, a.shapes, strict=True) if len(own) == len(shape)]
    return [tuple(a.join(axes[i] for axes, own in whole if own[i] == n) for i, n in enumerate(shape))]


@rule(
    *("copy", "copy_p", "device_put", "layout_constraint", "mesh_cast", "name", "optimization_barrier"),
    *("pcast", "pvary", "reshard", "sharding_constraint", "stop_gradient"),
)
def _identity(a: Application) -> list[Axes]:
    return list(a.axes)


@rule("iota")
def _iota(a: Application) -> list[Axes]:
    counted = a.step.params["dimension"]
    return [tuple(a.opaque(n) if i == counted else None for i, n in enumerate(a.results[0]))]


@rule("empty", "zeros_like")
def _uniform(a: Application) -> list[Axes]:
    return [(None,) * len(shape) for shape in a.results]


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def _cumulative(a: Application) -> list[Axes]:
    return [fixed(a, 0, [a.step.params["axis"]])]


@rule("fft")
def _fft(a: Application) -> list[Axes]:
    rank = len(a.shapes[0])
    return [fixed(a, 0, range(rank - len(a.step.params["fft_lengths"]), rank))]


def fixed(a: Application, operand: int, positions: Iterable[int], result: int = 0) -> Axes:
    """The axes of an operand, those at `positions` pinned and fresh in the result."""
    axes = list(a.axes[operand])
    for i in positions:
        a.pin(operand, i)
        axes[i] = a.opaque(a.results[result][i])
    return tuple(axes)


@rule("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor")
def _reduce(a: Application) -> list[Axes]:
    gone = set(a.step.params["axes"])
    return [tuple(axis for i, axis in enumerate(a.axes[0]) if i not in gone)]


@rule("argmax", "argmin")
def _position_of(a: Application) -> Sequence[Axes]:
    for i in a.step.params["axes"]:
        a.pin(0, i)
    return _reduce(a)


@rule("sort")
def _sort(a: Application) -> list[Axes]:
    # One array alone comes out the same however it went in; of several, the others tell the order.
    along = a.step.params["dimension"]
    for operand in range(len(a.axes) if len(a.axes) > 1 else 0):
        a.pin(operand, along)
    joined = [a.join(axes[i] for axes in a.axes) for i in range(len(a.shapes[0]))]
    return [tuple(a.opaque(n) if i == along else joined[i] for i, n in enumerate(shape)) for shape in a.results]


@rule("top_k")
def _top_k(a: Application) -> list[Axes]:
    along = a.step.params.get("axis", -1) % len(a.shapes[0])
    return [fixed(a, 0, [along], result) for result in range(len(a.results))]


__all__ = ["ELEMENTWISE", "RULES", "Application", "Axes", "Axis", "Shape", "fixed", "join", "rule", "said", "unknown"]
