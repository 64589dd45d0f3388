"""The result of every matching."""

from typing import Any, NamedTuple

from mcjax.symmetry import Permutation


class Match(NamedTuple):
    """A matching of theta_2 onto theta_1; arrays have a leading pair axis if the endpoints had one.

    Attributes:
        P: group -> int32 ([pairs,] n). `permute(spec, P, theta_2)` is theta_2 in the order of units of theta_1.
        objective: The function that the matching maximises or minimises, at `P`: float64 ([pairs]).
        info: Further results by name. Every matching documents its own.
    """

    P: Permutation
    objective: Any
    info: dict[str, Any]
