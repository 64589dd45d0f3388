"""Several moves together: permuting the units in use, and going over to another network."""

import numpy as np

from mcjax.constructions.chain import Chain, Leaves
from mcjax.constructions.moves import Units, Walk, cleared, copied, dead_units, handed_over, others, switched, written
from mcjax.errors import InputError


def permute_units(chained: Chain, walk: Walk, live: Units, targets: Units) -> None:
    """Five segments of one function: the units in use, all of `live`, go to `targets`, in this order.

    First every unit whose target is free goes there, and every other one that moves to a place that nobody wants;
    then these go on to their targets.
    """
    via: Units = {}
    for group, size in zip(chained.groups, chained.sizes, strict=True):
        now, then = live[group], targets[group]
        free = np.setdiff1d(np.arange(size), np.union1d(now, then))
        blocked = np.isin(then, now) & (now != then)
        via[group] = np.where(blocked, now, then)
        if blocked.sum() > len(free):
            raise InputError(f"{group}: {blocked.sum()} units have to step aside, and {len(free)} places are free.")
        via[group][blocked] = free[: blocked.sum()]
    for where, start, end in (("aside", live, via), ("to their places", via, targets)):
        moving = {g: start[g] != end[g] for g in start}
        sources = {g: start[g][moving[g]] for g in start}
        places = {g: end[g][moving[g]] for g in start}
        walk.to("b", f"copy units {where}", copied(chained, walk.here, sources, places))
        walk.to("c", "the copies are read instead", handed_over(chained, walk.here, sources, places))
    walk.to("b", "clear what is not read", cleared(chained, walk.here, others(chained, targets)))


def exchange(chained: Chain, walk: Walk, theta: Leaves) -> None:
    """Three segments to another network, whose units in use stand where none of the walk's are."""
    live = others(chained, dead_units(chained, theta))
    walk.to("b", "write the other network", written(chained, walk.here, theta, live, live))
    walk.to("a", "the top moves to the other network", switched(chained, walk.here, theta, live, live))
    walk.to("b", "all that is not read becomes the other network's", theta)


def places_for(live: Units, free: Units) -> Units:
    """A free place for every unit: its own, if it is free, or one where no unit stands, the lowest first."""
    targets = {}
    for group, now in live.items():
        moving = ~np.isin(now, free[group])
        targets[group] = now.copy()
        targets[group][moving] = np.setdiff1d(free[group], now)[: moving.sum()]
    return targets


def preferring(units: np.ndarray, preferred: np.ndarray) -> np.ndarray:
    """`units`, those that are preferred first."""
    return np.concatenate([np.intersect1d(units, preferred), np.setdiff1d(units, preferred)])
