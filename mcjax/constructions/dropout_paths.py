"""Paths between dropout-stable and noise-stable networks: Lemmas 1 and 2, Theorems 1 to 3 of Kuditipudi et al. 2019."""

import numpy as np

from mcjax import trees
from mcjax.constructions.chain import Chain, Leaves, chain_of, check_network, on_host
from mcjax.constructions.dropout import DropoutStability
from mcjax.constructions.moves import ChainPathBuilder, Construction
from mcjax.constructions.unit_edits import (
    Units,
    assign_places,
    check_free,
    clear_units,
    complement,
    switch_top,
    unread_units,
    write_units,
)
from mcjax.errors import InputError
from mcjax.models.base import Model


def drop_path(model: Model, stable: DropoutStability) -> Construction:
    """The path from a network to its theta_1, with half of the units dropped: 4 d - 6 segments of kinds (a) and (b).

    d is the number of weight matrices, at least 2; for d = 3 it is the path of Figure 1. The path passes through
    networks with the functions of theta_{d-1}, ..., theta_1, and its loss is at most that of the network plus epsilon.
    It ends at theta_1, with zero incoming weights for the dropped units.
    Source: Kuditipudi et al. 2019, Lemma 1, for any number of matrices as in section A.

    Raises:
        InputError: Unless at least half of each layer is dropped.
    """
    chain = _check(model, stable)
    return _lemma_1(chain, stable).build(stable.theta)


def halves_path(model: Model, theta_1: trees.Tree, theta_2: trees.Tree) -> Construction:
    """The path between two networks in which no layer reads at least half of the units: 8 segments.

    The first five permute the used units of theta_1 to places that theta_2 does not use, at constant function. The last
    three lead to theta_2. The loss is at most the higher loss of the two ends. If no units have to exchange places,
    segments 3 and 4 have length zero; `shortened()` removes them.
    Source: Kuditipudi et al. 2019, Lemma 2.

    Raises:
        InputError: If more than half of a layer is used.
    """
    chain = chain_of(model)
    for name, theta in (("theta_1", theta_1), ("theta_2", theta_2)):
        check_network(model, theta, name)
    return _lemma_2(chain, on_host(theta_1), on_host(theta_2)).build(theta_1)


def dropout_path(model: Model, stable_1: DropoutStability, stable_2: DropoutStability) -> Construction:
    """The path between two dropout-stable networks: 2 (4 d - 6) + 8 segments of kinds (a), (b) and (c).

    It consists of `drop_path`, `halves_path`, and a reversed `drop_path`. The loss is at most max(L_1 + epsilon_1,
    L_2 + epsilon_2), for the criterion and examples of epsilon, with batch statistics of the knots or re-estimated.
    Source: Kuditipudi et al. 2019, Theorem 1.

    Raises:
        InputError: Unless at least half of each layer is dropped.

    Example::

        one, two = (dropout_stability(key, task, theta) for theta in (theta_1, theta_2))
        metrics = evaluate_path(task, dropout_path(task.model, one, two).path)
    """
    chain = _check(model, stable_1, stable_2)
    builder, back = _lemma_1(chain, stable_1), _lemma_1(chain, stable_2)
    builder.append(_lemma_2(chain, builder.last, back.last))
    builder.append_reversed(back)
    return builder.build(stable_1.theta)


def interpolation_path(model: Model, stable_1: DropoutStability, stable_2: DropoutStability) -> Construction:
    """The path between two noise-stable networks with straight lines to their theta_1: 10 segments.

    The straight lines are the first and the last segment. The loss on them has no bound here; noise stability keeps it
    low. The dropped units are those of `dropout_stability`: as in Algorithm 1, but with a fixed number of them.
    Source: Kuditipudi et al. 2019, Theorem 2.

    Raises:
        InputError: Unless at least half of each layer is dropped.
    """
    chain = _check(model, stable_1, stable_2)
    builder, back = _lemma_3(chain, stable_1), _lemma_3(chain, stable_2)
    builder.append(_lemma_2(chain, builder.last, back.last))
    builder.append_reversed(back)
    return builder.build(stable_1.theta)


def narrow_path(
    model: Model, stable_1: DropoutStability, stable_2: DropoutStability, narrow: trees.Tree
) -> Construction:
    """The path between two noise-stable networks through a narrow network: 13 segments.

    The loss is at most the highest of the narrow network and of the straight lines from both networks to their theta_1.
    Source: Kuditipudi et al. 2019, Theorem 3.

    Args:
        model: The model of both networks.
        stable_1: The first network, which may drop less than half of its units.
        stable_2: The second network, likewise.
        narrow: A network of the same architecture with fewer units, at most as many as each network drops.

    Returns:
        The path and its moves.

    Raises:
        InputError: If the narrow network does not fit, or is of another architecture.
    """
    chain = _check(model, stable_1, stable_2)
    source = _check_narrow(model, on_host(stable_1.theta), narrow)
    builder, back = _lemma_3(chain, stable_1), _lemma_3(chain, stable_2)
    free_1, free_2 = unread_units(chain, builder.last), unread_units(chain, back.last)
    widths = model.spec.group_sizes(narrow)
    for free in (free_1, free_2):
        check_free(free, widths, "the narrow network does not fit into the units that are dropped")
    # Write the narrow network, preferably into units that are free in both networks, so that they need not move.
    places = builder.write_narrow(source, widths, preferred=free_2)
    builder.move("b", "clear all other units", clear_units(chain, builder.last, complement(chain, places)))
    # Lemma 2: move its units to places that the second network does not use, then switch to that network.
    builder.permute_units(places, assign_places(places, free_2))
    builder.switch_network(back.last)
    builder.append_reversed(back)
    return builder.build(stable_1.theta)


def _check(model: Model, *stable: DropoutStability) -> Chain:
    """The chain of the model. Raises SpecError if a network is of another model."""
    for each in stable:
        if not isinstance(each, DropoutStability):
            raise InputError(f"got {type(each).__name__}, expected a DropoutStability, as dropout_stability returns.")
        check_network(model, each.theta, "stable.theta")
    if len({each.criterion for each in stable}) > 1:
        raise InputError("the networks were measured by different criteria, expected one for both.")
    return chain_of(model)


def _check_narrow(model: Model, wide: Leaves, narrow: trees.Tree) -> Leaves:
    """The variables of a narrow network. Raises InputError if more than the numbers of units differs."""
    source = on_host(narrow)
    if {name: np.ndim(leaf) for name, leaf in source.items()} != {name: leaf.ndim for name, leaf in wide.items()}:
        raise InputError("narrow: expected one network of the same architecture as the others, with fewer units.")
    if not all(np.isfinite(leaf).all() for leaf in source.values()):
        raise InputError("narrow holds values that are not finite, expected a network that was trained.")
    for name, leaf in source.items():
        fixed = [i for i, entry in enumerate(model.spec.axes[name]) if not entry]
        if [leaf.shape[i] for i in fixed] != [wide[name].shape[i] for i in fixed]:
            raise InputError(
                f"narrow: {name} has shape {leaf.shape}, expected that of the network, {wide[name].shape}, but for "
                "the numbers of units."
            )
    return source


def _lemma_1(chain: Chain, stable: DropoutStability) -> ChainPathBuilder:
    """The path from a network to its theta_1, one layer after another from the top (Lemma 1).

    While the top reads one half of a layer, the next network is written into the other half.
    """
    sizes = dict(zip(chain.groups, chain.sizes, strict=True))
    stay = {group: np.flatnonzero(mask) for group, mask in stable.keep.items()}
    dropped = {group: np.flatnonzero(~mask) for group, mask in stable.keep.items()}
    needed = {group: len(units) for group, units in stay.items()}
    check_free(dropped, needed, "expected at least half of the units of each layer to be dropped: fraction=0.5 or more")
    spare = {group: dropped[group][: len(units)] for group, units in stay.items()}
    thetas = [on_host(trees.index(stable.thetas, i)) for i in range(len(sizes))]
    builder = ChainPathBuilder(chain, on_host(stable.theta))

    def write(purpose: str, theta: Leaves, places: Units, groups: tuple[str, ...]) -> None:
        builder.move("b", purpose, write_units(chain, builder.last, theta, stay, places, groups))

    def read(purpose: str, theta: Leaves, places: Units) -> None:
        builder.move("a", purpose, switch_top(chain, builder.last, theta, stay, places))

    # To theta_{d-1}: units of the last hidden layer are dropped in the top, by a move of kind (a).
    top = chain.top.kernel
    builder.move("a", f"drop units of layer {len(thetas)}", {**builder.last, top: thetas[-1][top]})
    for i in reversed(range(len(thetas) - 1)):
        # To theta_{i+1}: write the layers above into unread units, reading only the kept units of layer i + 1 (b);
        # move the top to them (a); write them into the kept units (b); move the top back (a).
        above, theta, name = chain.groups[i + 1 :], thetas[i], f"theta_{i + 1}"
        aside = {g: spare[g] if g in above else stay[g] for g in sizes}
        write(f"write {name} into units not read", theta, aside, above)
        read(f"drop units of layer {i + 1}", theta, aside)
        write(f"write {name} into the units that stay", theta, stay, above)
        read("the top moves back", theta, stay)
    builder.move("b", "clear the units dropped", clear_units(chain, thetas[0], dropped))
    return builder


def _lemma_2(chain: Chain, theta_1: Leaves, theta_2: Leaves) -> ChainPathBuilder:
    """The path between two networks with half of their units unread: permute the units of the first, then switch."""
    unread_1, unread_2 = unread_units(chain, theta_1), unread_units(chain, theta_2)
    half = {g: -(-n // 2) for g, n in zip(chain.groups, chain.sizes, strict=True)}
    for unread in (unread_1, unread_2):
        check_free(
            unread, half, "expected at least half of the units of each layer to be read by none: fraction=0.5 or more"
        )
    used = complement(chain, unread_1)
    builder = ChainPathBuilder(chain, theta_1)
    builder.permute_units(used, assign_places(used, unread_2))
    builder.switch_network(theta_2)
    return builder


def _lemma_3(chain: Chain, stable: DropoutStability) -> ChainPathBuilder:
    """The straight line from a network to its theta_1."""
    builder = ChainPathBuilder(chain, on_host(stable.theta))
    builder.move("line", "drop units of all layers", on_host(trees.index(stable.thetas, 0)))
    return builder
