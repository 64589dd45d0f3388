"""One architecture on one data set: networks, matches, curves, and metrics along them."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.neuron_alignment.paper import SCHEMES
from experiments.study import Parts
from mcjax import (
    FitConfig,
    Model,
    PamConfig,
    PathMetrics,
    Task,
    TrainConfig,
    bezier,
    evaluate_path,
    fit_curve,
    fit_pam,
    linear,
    match_activations,
    train_endpoints,
    trees,
)
from mcjax.commands.pam import pam_results

LINES = ("line unaligned", "line aligned")
FIXED = ("unaligned", "aligned")
"""The classes of curves whose permutation is not learned."""


@dataclass(frozen=True)
class Settings:
    """Settings of training, fitting and measurement.

    Attributes:
        networks: how networks are trained.
        curve: how curves are fitted.
        pams: how PAM's curves are fitted, by the name of the scheme.
        pairs: pairs of networks.
        points: values of t along a path.
        calibration_images: training images to re-estimate batch statistics on (None: all).
        plane_points: points of a plane along each axis.
        plane_images: test images to measure planes on (None: all).
        exchanges: whether all exchanges of two units are tried, before and after a curve is fitted.
        exchange_images: training images in the objective that tells whether an exchange is better.
        exchange_points: values of t in it.
        two_seeds: whether the curves of two classes are fitted once more, with one seed for all pairs.
    """

    networks: TrainConfig
    curve: FitConfig
    pams: dict[str, PamConfig]
    pairs: int
    points: int
    calibration_images: int | None
    plane_points: int
    plane_images: int | None
    exchanges: bool
    exchange_images: int
    exchange_points: int
    two_seeds: bool

    @property
    def classes(self) -> tuple[str, ...]:
        """The curve classes to fit."""
        learned = [f"{SCHEMES[scheme]} {how}" for scheme in self.pams for how in ("unaligned", "aligned")]
        return ("unaligned", *learned, "aligned")

    def pam(self, name: str) -> PamConfig | None:
        """The settings of PAM for a class of curves; None if it is not learned by PAM."""
        return next((config for scheme, config in self.pams.items() if name.startswith(f"{SCHEMES[scheme]} ")), None)

    def epochs(self, name: str) -> str:
        """The epochs in which the control points of a class are trained."""
        pam = self.pam(name)
        return str(self.curve.epochs) if pam is None else f"{pam.iterations} x {pam.curve.epochs}"

    @property
    def parts(self) -> list[str]:
        """The parts of a cell."""
        return [
            *("networks", "networks measured", "match", *self.classes, "ensembles"),
            *(f"exchanges {name}" for name in FIXED if self.exchanges),
            *(f"second {name}" for name in FIXED if self.two_seeds),
            *(f"seeds {name}" for name in FIXED if self.two_seeds),
            *(f"along {name}" for name in (*LINES, *self.classes)),
            *(f"signature {name}" for name in ("unaligned", "aligned")),
            *(f"plane {name}" for name in ("lines", "unaligned", "aligned")),
        ]


@dataclass(frozen=True)
class Cell:
    """One architecture on one data set; every part of it is made when it is first needed, and kept.

    Attributes:
        name: architecture and data set, MODEL_DATA.
        data: the name of the data set.
        known_as: the name that the paper has for it, or "".
        task: what the networks are trained on and measured by.
        settings: the settings of training, fitting and measurement.
        key: a typed key.
        parts: the parts whose names begin with that of the cell.
        mesh: the devices (None: the first).
    """

    name: str
    data: str
    known_as: str
    task: Task
    settings: Settings
    key: jax.Array
    parts: Parts
    mesh: Mesh | None = None

    @property
    def model(self) -> Model:
        """The architecture."""
        assert self.task.model is not None
        return self.task.model

    @property
    def calibration(self) -> dict[str, Any]:
        """The number of images that batch statistics are re-estimated on."""
        return {"calibration_examples": self.settings.calibration_images}

    @cached_property
    def networks(self) -> trees.Tree:
        """Trained networks along a leading axis, the two of a pair next to each other, and their history."""

        def train() -> trees.Tree:
            keys = jax.random.split(jax.random.fold_in(self.key, 0), 2 * self.settings.pairs)
            settings, recorder = self.settings.networks, self.parts.recorder("networks")
            trained = train_endpoints(keys, self.task, settings, recorder=recorder, mesh=self.mesh)
            return {"theta": trained.theta, "history": trained.history}

        return self.parts.arrays("networks", train)

    @cached_property
    def ends(self) -> tuple[trees.Tree, trees.Tree]:
        """theta_1 and theta_2 with a leading pair axis."""
        theta = self.networks["theta"]
        return trees.index(theta, slice(0, None, 2)), trees.index(theta, slice(1, None, 2))

    @cached_property
    def match(self) -> trees.Tree:
        """The match of activations of every pair: P, correlations of the first pair, means before and after."""
        ends = self.ends

        def find() -> trees.Tree:
            found = match_activations(self.task, *ends)
            first = {group: matrix[0] for group, matrix in found.info["correlation"].items()}
            return {"P": found.P, **found.info, "correlation": first}

        return self.parts.arrays("match", find)

    def start(self, name: str) -> dict[str, jax.Array]:
        """The permutation that a class of paths starts from."""
        P = {group: jnp.asarray(p) for group, p in self.match["P"].items()}
        if not name.endswith("unaligned"):
            return P
        return {group: jnp.broadcast_to(jnp.arange(p.shape[1]), p.shape) for group, p in P.items()}

    def fit(self, name: str) -> trees.Tree:
        """The fit of a curve class: theta_c, P, history, and PAM's report."""
        settings, curve = self.settings, bezier(self.model.spec)
        ends = (jax.random.fold_in(self.key, 1), self.task, curve, *self.ends, self.start(name))

        def learn() -> trees.Tree:
            pam = settings.pam(name)
            if pam is None:
                plain = fit_curve(*ends, settings.curve, recorder=self.parts.recorder(name), mesh=self.mesh)
                return {"theta_c": plain.theta_c, "P": plain.P, "history": plain.history}
            learned = fit_pam(*ends, pam, recorder=self.parts.recorder(name), mesh=self.mesh)
            report = {name: np.asarray(values) for name, values in pam_results(learned).items()}
            return {"theta_c": learned.theta_c, "P": learned.P, "history": learned.history, "report": report}

        return self.parts.arrays(name, learn)

    def second(self, name: str) -> trees.Tree:
        """Control points of a class fitted once more, with one seed for all pairs."""
        ends, P = self.ends, self.start(name)
        key, curve = jax.random.fold_in(self.key, 2), bezier(self.model.spec)

        def learn() -> trees.Tree:
            fits = []
            for pair in range(self.settings.pairs):
                recorder = replace(self.parts.recorder(f"second {name}"), stage=f"{self.name}_second_{name}_{pair}")
                given = (key, self.task, curve, *trees.index((*ends, P), pair), self.settings.curve)
                fits.append(fit_curve(*given, recorder=recorder, mesh=self.mesh).theta_c)
            return {"theta_c": trees.stack(fits)}

        return self.parts.arrays(f"second {name}", learn)["theta_c"]

    def path(self, name: str, pair: int | None = None) -> jax.tree_util.Partial:
        """The path of a class, of all pairs or of one."""
        if name in LINES:
            curve, theta_c, P = linear(self.model.spec), None, self.start(name)
        else:
            fit = self.fit(name)
            curve, theta_c, P = bezier(self.model.spec), fit["theta_c"], fit["P"]
        if pair is None:
            return curve.bind_pairs(*self.ends, theta_c, P)
        return curve.bind(*trees.index((*self.ends, theta_c, P), pair))

    def along(self, name: str) -> PathMetrics:
        """Loss and accuracy along a class of paths."""
        points, path = self.settings.points, self.path(name)

        def measure() -> dict[str, Any]:
            return evaluate_path(self.task, path, points, mesh=self.mesh, **self.calibration)._asdict()

        kept = self.parts.numbers(f"along {name}", measure)
        return PathMetrics(**jax.tree.map(np.float32, kept, is_leaf=lambda value: isinstance(value, list)))
