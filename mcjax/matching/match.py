"""The result of every matching."""

from typing import Any, NamedTuple

from mcjax.shown import short_repr
from mcjax.symmetry import Permutation


@short_repr
class Match(NamedTuple):
    """A matching of theta_2 onto theta_1; arrays have a leading pair axis if the endpoints had one.

    Attributes:
        P: group -> int32 ([pairs,] n). `permute(spec, P, theta_2)` is theta_2 with the units aligned with theta_1.
        objective: The value at `P` of the function that the matching maximises or minimises, float64 ([pairs]).
        info: Further results by name, which each matching documents.
    """

    P: Permutation
    objective: Any
    info: dict[str, Any]
