"""Paths between dropout-stable networks, by construction: no training, and a loss that is known beforehand."""

import numpy as np

from mcjax import trees
from mcjax.constructions.chain import Chain, Leaves, chain, check_network, on_host
from mcjax.constructions.dropout import DropoutStability
from mcjax.constructions.exchanges import exchange, permute_units, places_for, preferring
from mcjax.constructions.moves import (
    Construction,
    Walk,
    check_room,
    cleared,
    dead_units,
    others,
    switched,
    written,
)
from mcjax.errors import InputError
from mcjax.models.base import Model


def drop_path(model: Model, stable: DropoutStability) -> Construction:
    """The path from a network to theta_1, half of its units dropped, of moves (a) and (b): 4 d - 6 segments.

    d: the number of weight matrices, at least 2. It passes theta_{d-1}, ..., theta_1, and its loss is at most that
    of the network plus epsilon. Of three matrices it is Figure 1: six segments. It ends at theta_1 with nothing
    that makes the units dropped. Raises InputError unless at least half of every layer is dropped.
    Source: Kuditipudi et al. 2019, Lemma 1; any number of matrices as in section A: while the top reads one half
    of a layer, the layer below is left half out by writing the network anew into the other half.
    """
    chained = _check(model, stable)
    return _dropped(chained, stable).construction(stable.theta)


def halves_path(model: Model, theta_1: trees.Tree, theta_2: trees.Tree) -> Construction:
    """The path between two networks, at least half of whose units no layer reads: 8 segments.

    Five permute the units of theta_1 that are in use away from the places of theta_2's, the function unchanged
    throughout; in three theta_2 is written, the top moves over to it, and the rest is made as in theta_2. Its loss
    is at most the higher end. Raises InputError, naming the groups, if more than half of a layer is in use.
    Source: Kuditipudi et al. 2019, Lemma 2. Where no two units have to change places, segments 3 and 4 have no
    length: `shortened()` leaves them out.
    """
    chained = chain(model)
    for name, theta in (("theta_1", theta_1), ("theta_2", theta_2)):
        check_network(model, theta, name)
    return _halves(chained, on_host(theta_1), on_host(theta_2)).construction(theta_1)


def dropout_path(model: Model, stable_1: DropoutStability, stable_2: DropoutStability) -> Construction:
    """The path between two dropout-stable networks: 2 (4 d - 6) + 8 segments of moves (a), (b) and (c).

    Its loss is at most max(L_1 + epsilon_1, L_2 + epsilon_2), on the data and by the loss that epsilon was measured
    on; with batch statistics held as they are in the knots, or re-estimated everywhere. Source: Kuditipudi et al.
    2019, Theorem 1: `drop_path`, `halves_path`, and `drop_path` back.

        one, two = (dropout_stability(key, model, theta, data) for theta in (theta_1, theta_2))
        metrics = evaluate_path(model, dropout_path(model, one, two).path, data)
    """
    chained = _check(model, stable_1, stable_2)
    first, second = _dropped(chained, stable_1), _dropped(chained, stable_2)
    first.follow(_halves(chained, first.here, second.here))
    first.back(second)
    return first.construction(stable_1.theta)


def interpolation_path(model: Model, stable_1: DropoutStability, stable_2: DropoutStability) -> Construction:
    """The path between two noise-stable networks, straight to what is left of them after dropout: 10 segments.

    Only the first and last segment, straight lines from the networks to their theta_1, have a loss that is not
    known beforehand: noise stability keeps it low. Source: Kuditipudi et al. 2019, Theorem 2, with the subsets of
    `dropout_stability` (Algorithm 1's, of a fixed number of units). Raises InputError unless at least half of
    every layer is dropped.
    """
    chained = _check(model, stable_1, stable_2)
    walk, end = (_straight(chained, stable) for stable in (stable_1, stable_2))
    walk.follow(_halves(chained, walk.here, end.here))
    walk.back(end)
    return walk.construction(stable_1.theta)


def narrow_path(
    model: Model, stable_1: DropoutStability, stable_2: DropoutStability, narrow: trees.Tree
) -> Construction:
    """The path between two noise-stable networks by way of a narrow one: 13 segments.

    narrow: variables of the same architecture with fewer units, which have to fit into the units that are dropped
    of both: few of them, if a narrow network does well. Its loss is at most that of the narrow network and of the
    straight lines from the networks to their theta_1. Source: Kuditipudi et al. 2019, Theorem 3. Raises InputError
    if the narrow network does not fit, SpecError if it is of another architecture.
    """
    chained = _check(model, stable_1, stable_2)
    start, source = on_host(stable_1.theta), on_host(narrow)
    if {name: np.ndim(leaf) for name, leaf in source.items()} != {name: leaf.ndim for name, leaf in start.items()}:
        raise InputError("narrow: expected one network of the same architecture as the others, with fewer units.")
    if not all(np.isfinite(leaf).all() for leaf in source.values()):
        raise InputError("narrow holds values that are not finite, expected a network that was trained.")
    widths = model.spec.group_sizes(narrow)
    for name, leaf in source.items():
        fixed = [i for i, entry in enumerate(model.spec.axes[name]) if not entry]
        if [leaf.shape[i] for i in fixed] != [start[name].shape[i] for i in fixed]:
            raise InputError(
                f"narrow: {name} has shape {leaf.shape}, expected that of the network, {start[name].shape}, but for "
                "the numbers of units."
            )
    walk, end = (_straight(chained, stable) for stable in (stable_1, stable_2))
    free_1, free_2 = dead_units(chained, walk.here), dead_units(chained, end.here)
    for free in (free_1, free_2):
        check_room(chained, free, widths, "the narrow network does not fit into the units that are dropped")
    units = {group: np.arange(n) for group, n in widths.items()}
    # Where both networks have free units, the narrow one need not move.
    places = {g: preferring(free_1[g], free_2[g])[:n] for g, n in widths.items()}
    targets = places_for(places, free_2)
    walk.to("b", "write the narrow network into dropped units", written(chained, walk.here, source, units, places))
    walk.to("a", "the top moves to the narrow network", switched(chained, walk.here, source, units, places))
    walk.to("b", "clear all else", cleared(chained, walk.here, others(chained, places)))
    permute_units(chained, walk, places, targets)
    exchange(chained, walk, end.here)
    walk.back(end)
    return walk.construction(stable_1.theta)


def _check(model: Model, *stable: DropoutStability) -> Chain:
    """The chain of the model. Raises SpecError if what was measured is of another."""
    for each in stable:
        if not isinstance(each, DropoutStability):
            raise InputError(f"got {type(each).__name__}, expected what dropout_stability returns for a network.")
        check_network(model, each.theta, "stable.theta")
    if len({each.criterion for each in stable}) > 1:
        raise InputError("the networks were measured by different criteria, expected one for both.")
    return chain(model)


def _dropped(chained: Chain, stable: DropoutStability) -> Walk:
    """Lemma 1."""
    sizes = dict(zip(chained.groups, chained.sizes, strict=True))
    stay = {group: np.flatnonzero(mask) for group, mask in stable.keep.items()}
    gone = {group: np.flatnonzero(~mask) for group, mask in stable.keep.items()}
    needed = {group: len(units) for group, units in stay.items()}
    check_room(
        chained, gone, needed, "expected at least half of the units of every layer to be dropped: fraction=0.5 or more"
    )
    spare = {group: gone[group][: len(units)] for group, units in stay.items()}
    walk = Walk(chained, on_host(stable.theta))
    thetas = [on_host(trees.index(stable.thetas, i)) for i in range(len(sizes))]
    top = chained.top.kernel
    last = f"drop units of layer {len(thetas)}"
    walk.to("a", last, {**walk.here, top: thetas[-1][top]})
    for i in reversed(range(len(thetas) - 1)):
        # Layers above i + 1 are written anew: they read layer i + 1 without the units dropped there.
        above = chained.groups[i + 1 :]
        theta, what = thetas[i], f"theta_{i + 1}"
        aside = {g: spare[g] if g in above else stay[g] for g in sizes}
        walk.to("b", f"write {what} into units not read", written(chained, walk.here, theta, stay, aside, above))
        walk.to("a", f"drop units of layer {i + 1}", switched(chained, walk.here, theta, stay, aside))
        walk.to("b", f"write {what} into the units that stay", written(chained, walk.here, theta, stay, stay, above))
        walk.to("a", "the top moves back", switched(chained, walk.here, theta, stay, stay))
    walk.to("b", "clear the units dropped", cleared(chained, thetas[0], gone))
    return walk


def _straight(chained: Chain, stable: DropoutStability) -> Walk:
    """Lemma 3: one segment."""
    walk = Walk(chained, on_host(stable.theta))
    walk.to("line", "drop units of all layers", on_host(trees.index(stable.thetas, 0)))
    return walk


def _halves(chained: Chain, theta_1: Leaves, theta_2: Leaves) -> Walk:
    """Lemma 2."""
    dead_1, dead_2 = dead_units(chained, theta_1), dead_units(chained, theta_2)
    half = {g: -(-n // 2) for g, n in zip(chained.groups, chained.sizes, strict=True)}
    for dead in (dead_1, dead_2):
        check_room(
            chained,
            dead,
            half,
            "expected at least half of the units of every layer to be read by none: fraction=0.5 or more",
        )
    live = others(chained, dead_1)
    walk = Walk(chained, theta_1)
    permute_units(chained, walk, live, places_for(live, dead_2))
    exchange(chained, walk, theta_2)
    return walk
