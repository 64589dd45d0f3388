"""`mcjax merge`: match networks, average them into one, and repair its statistics."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

from mcjax import trees
from mcjax.commands.match import check_groups, check_symmetry
from mcjax.commands.networks import Network, networks_of, read_networks
from mcjax.commands.options import AugmentOptions, DataOptions, ModelOptions, Out, open_run, seed_key
from mcjax.commands.train import by_split
from mcjax.data import Dataset
from mcjax.errors import InputError
from mcjax.landscape.ensembles import ensemble_accuracy
from mcjax.landscape.repair import repair, repaired_layers
from mcjax.matching.activations import match_activations
from mcjax.matching.merging import match_to_reference, merge
from mcjax.models import Model
from mcjax.runs import checkpoint
from mcjax.runs.tables import table
from mcjax.symmetry import Permutation, PermutationSpec, identity_permutation, permute, save_permutation
from mcjax.training import Task, evaluate, supervised
from mcjax.training.task import examples


@dataclass(frozen=True)
class RepairOptions(AugmentOptions):
    """Measurement of unit statistics, on training images augmented as in training."""

    calibration_images: int | None = None
    """Training images to measure the statistics of units on (None: all)."""
    eval_batch_size: int = 500
    """Images in memory at once."""


@dataclass(frozen=True)
class Merge:
    """Merge networks of one architecture into one: match their units, average, repair the statistics of units.

    Writes the merged network as network 0 of a run, so that other commands take the run folder as a network. Measures
    the gain of each step: the plain average, the matched average, both repaired, and the ensemble of the outputs for
    comparison. Batch statistics of every average are re-estimated.
    """

    networks: tyro.conf.Positional[tuple[str, ...]]
    """Two or more checkpoints or run folders; RUN/0 is the first network of a run, and RUN alone stands for all of
    its networks."""
    images: DataOptions = field(default_factory=DataOptions)
    architecture: ModelOptions = field(default_factory=ModelOptions)
    repairing: RepairOptions = field(default_factory=RepairOptions)
    method: Literal["activations", "weights", "both"] = "activations"
    """Matching of units: activations of every network to those of the first; weights of every network to the mean of
    the others (Git Re-Basin); or both, weights from activations: a little better for MLPs, worse with norms."""
    match_images: int | None = None
    """Training images to correlate activations over, evenly spaced (None: a fifth)."""
    restarts: int | None = None
    """Restarts of every matching of weights (None: 3, and 1 from activations)."""
    seed: int = 0
    """Seed of the order in which weights are matched."""
    out: Out = None

    def run(self) -> None:
        """Run the command, or report its results."""
        key = seed_key(self.seed)
        networks, dataset, images = self._read()
        first = networks[0]
        augmentation = self.repairing.augmentation(dataset)
        task = supervised(first.model, dataset, augmentation=augmentation)
        self._check(task, first)
        run = open_run(
            "merge",
            self.out,
            {
                "model": first.about["model"],
                "theta": [trees.fingerprint(network.theta) for network in networks],
                "data": images,
                "method": self.method,
                "match_images": self.match_images,
                "restarts": self.restarts,
                "seed": self.seed,
                "augmentation": vars(augmentation),
                "calibration_images": self.repairing.calibration_images,
                "eval_batch_size": self.repairing.eval_batch_size,
            },
        )
        if run.results is None:
            task = jax.device_put(task)
            thetas = trees.stack([network.theta for network in networks])
            P, objective = self._match(key, task, first.model.spec, thetas)
            averages = self._averages(task, first.model.spec, thetas, P)
            for i in range(len(networks)):
                run.write(f"permutation_{i}.npz", partial(save_permutation, P=trees.index(P, i)))
            merged = averages[list(averages)[-1]]
            checkpoint.save(
                run.checkpoints("network_0"),
                merged,
                {"model": first.about["model"], "data": first.about.get("data", images)},
            )
            measured = _measure(task, {**{n.name: n.theta for n in networks}, **averages}, thetas)
            run.finish({"measured": measured, "objective": objective, **_repaired_and_left(first.model)})
        run.report(partial(_report, run.path))

    def _read(self) -> tuple[list[Network], Dataset, dict[str, Any]]:
        paths = list(self.networks)
        if len(paths) == 1 and not checkpoint.is_checkpoint(paths[0]):
            found = networks_of(Path(paths[0]))
            if len(found) > 1:
                paths = [str(Path(paths[0]) / path.name.removeprefix("network_")) for path in found]
        if len(paths) < 2:
            raise InputError(
                f"got {len(paths)} network{'s' * (len(paths) != 1)}, expected two or more to merge: checkpoints, RUN/0 "
                "RUN/1 ..., or the folder of a run of `mcjax train` that holds several."
            )
        networks, dataset, images = read_networks(paths, self.architecture, self.images)
        names: dict[str, str] = {}
        for network in networks:
            fingerprint = trees.fingerprint(network.theta)
            if fingerprint in names:
                raise InputError(
                    f"{names[fingerprint]} and {network.name} are the same network, which would count twice in the "
                    "average: expected each network once."
                )
            names[fingerprint] = network.name
        return networks, dataset, images

    def _check(self, task: Task, first: Network) -> None:
        # Check before the run folder is made, since an existing one would refuse the corrected command.
        available = examples(task.train)
        check_groups(first.model)
        calibration, size = self.repairing.calibration_images, self.repairing.eval_batch_size
        for name, value, least in (("match_images", self.match_images, 2), ("calibration_images", calibration, 1)):
            if value is not None and not least <= value <= available:
                raise InputError(f"got {name}={value}, expected {least} to {available}.")
        for option, given, unread in (
            ("--restarts", self.restarts, "activations"),
            ("--match-images", self.match_images, "weights"),
        ):
            if given is not None and self.method == unread:
                raise InputError(f"{option} is for the other methods: got --method {unread}, which does not read it.")
        for name, number in (("restarts", self.restarts), ("eval_batch_size", size)):
            if number is not None and number < 1:
                raise InputError(f"got {name}={number}, expected at least 1.")
        check_symmetry(task, first.theta)

    def _match(
        self, key: jax.Array, task: Task, spec: PermutationSpec, thetas: trees.Tree
    ) -> tuple[Permutation, list[float] | None]:
        """The permutations of all networks, and the objective after every round of weight matching."""
        P = None
        if self.method != "weights":
            first, others = trees.index(thetas, 0), trees.index(thetas, slice(1, None))
            found = match_to_reference(partial(match_activations, task, examples=self.match_images), first, others)
            identity = identity_permutation(spec, first)
            P = {group: jnp.concatenate([identity[group][None], p]) for group, p in found.items()}
            if self.method == "activations":
                return P, None
        merged = merge(key, spec, thetas, P, restarts=self.restarts)
        return merged.P, merged.objective.tolist()

    def _averages(self, task: Task, spec: PermutationSpec, thetas: trees.Tree, P: Permutation) -> dict[str, trees.Tree]:
        """All averages by name; the matched and repaired one is the last."""
        permuted = jax.vmap(lambda p, theta: permute(spec, p, theta))(P, thetas)
        norms = bool(jax.tree.leaves(trees.batch_stats(thetas)))
        averages: dict[str, trees.Tree] = {}
        for name, ends in (("plain average", thetas), ("matched average", permuted)):
            mean = trees.mean(ends)
            repaired = repair(
                task,
                mean,
                ends,
                batch_size=self.repairing.eval_batch_size,
                calibration_examples=self.repairing.calibration_images,
            )
            averages |= {name: repaired} if norms else {name: mean, f"{name}, repaired": repaired}
        return averages


def _measure(task: Task, networks: dict[str, trees.Tree], thetas: trees.Tree) -> dict[str, dict[str, float]]:
    """Loss and accuracy of every network by name, and of the ensemble of `thetas`."""
    values = by_split(*evaluate(task, trees.stack(list(networks.values()))))
    measured = {name: {metric: float(each[i]) for metric, each in values.items()} for i, name in enumerate(networks)}
    train, test = (ensemble_accuracy(task, thetas, split=split)._asdict() for split in ("train", "test"))
    together = by_split(train, test)
    measured["ensemble of outputs"] = {metric: float(together[metric]) for metric in values}
    return measured


def _repaired_and_left(model: Model) -> dict[str, Any]:
    """The kernels of the repaired layers, and of the other layers that produce hidden units."""
    shapes = trees.shapes(jax.eval_shape(model.init, jax.random.key(0)))
    norms = any(name.startswith("batch_stats/") for name in shapes)
    repaired = [layer.kernel for layer in repaired_layers(model)]
    producers = dict.fromkeys(leaf for group in model.spec.groups for leaf, _ in model.spec.producers(group))
    left = [leaf for leaf in producers if len(shapes[leaf]) > 1 and leaf not in repaired and not norms]
    return {"batch_statistics": norms, "repaired": repaired, "left": left}


def _report(path: Path, results: dict[str, Any]) -> None:
    measured = results["measured"]
    columns = list(next(iter(measured.values())))
    rows = [[name, *(f"{row[column]:.4f}" for column in columns)] for name, row in measured.items()]
    print(table(["", *(column.replace("_", " ") for column in columns)], rows))
    if results["batch_statistics"]:
        print("Batch statistics of every average are re-estimated on training images, which is what repairs them.")
    else:
        left = f"Left as they are: {', '.join(results['left'])}."
        left = left if results["left"] else "No layer that makes units was left out."
        print(f"Repaired: the units of {len(results['repaired'])} layers. {left}")
    print(f"Written to {path}, which other commands take as the merged network.")
