"""`mcjax quickstart`: the whole of it, on real images that need no download, in a minute."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcjax import data, plotting, trees
from mcjax.commands import pam
from mcjax.commands.networks import Out, check_key, open_run, read_model
from mcjax.commands.train import as_json
from mcjax.curves import FitConfig, PamConfig, PamFit, bezier, fit_curve, fit_pam, linear
from mcjax.errors import InputError
from mcjax.landscape import PathMetrics, barrier, evaluate_path
from mcjax.matching import Match, match_activations
from mcjax.runs import Recorder, checkpoint
from mcjax.runs.folder import RunFolder, mean_and_std, plus_minus, table
from mcjax.symmetry import check_invariance
from mcjax.training import TrainConfig, train_endpoints

KINDS = (
    "linear_unaligned",
    "linear_aligned",
    "bezier_unaligned",
    "PAM_unaligned",
    "PAM_aligned",
    "bezier_aligned",
)
HEAD = ("mean train loss", "mean test acc. (%)", "min test acc. (%)", "barrier (nats)")
STYLES = {"linear": "--", "bezier": "-", "PAM": ":"}
ABOUT: dict[str, Any] = {
    "model": {"name": "mlp", "num_classes": 10, "input_shape": [8, 8, 1], "widths": [32, 32]},
    "data": {"data": "digits", "data_dir": None, "train_images": None, "test_images": None},
}
"""What the checkpoints say of themselves, so that the other commands take them."""


@dataclass(frozen=True)
class Quickstart:
    """Join pairs of small networks on scikit-learn's handwritten digits: six paths a pair, one table, three figures.

    Trains an MLP 64-32-32-10 from many seeds at once, matches each pair's units, fits Bezier curves
    with and without the matching, and once more with permutations learned together with the curve (PAM);
    measures loss and accuracy along all of them and along straight lines.
    """

    pairs: int = 6
    """How many independent pairs of networks."""
    epochs: int = 60
    """Passes over the 1,437 training images, for the networks and for the curves."""
    seed: int = 0
    """Seed of everything."""
    out: Out = None

    def run(self) -> None:
        """Do it, or go on with it, or report what was done."""
        if self.pairs < 1:
            raise InputError(f"got pairs={self.pairs}, expected at least 1.")
        if self.epochs < 1:
            raise InputError(f"got epochs={self.epochs}, expected at least 1.")
        key = check_key(self.seed)
        learning = pam.PamOptions().config({"epochs": self.epochs})
        config = {"pairs": self.pairs, "epochs": self.epochs, "seed": self.seed, "pam": as_json(learning)}
        run = open_run("quickstart", self.out or "runs/quickstart", config)
        if run.results is None:
            self._do(run, key, learning)
        report(run)

    def _do(self, run: RunFolder, key: jax.Array, learning: PamConfig) -> None:
        dataset = data.load("digits")
        model = read_model(ABOUT["model"])
        train_key, check_key_, fit_key = jax.random.split(key, 3)
        keys = jax.random.split(train_key, 2 * self.pairs)
        recorder = Recorder(f"training {2 * self.pairs} networks", run, "networks")
        endpoints = train_endpoints(keys, model, dataset, TrainConfig(epochs=self.epochs), recorder=recorder)
        theta_1, theta_2 = (trees.index(endpoints.theta, slice(i, None, 2)) for i in range(2))
        for i in range(2 * self.pairs):
            checkpoint.save(run.checkpoints(f"network_{i}"), trees.index(endpoints.theta, i), ABOUT)
        few = data.normalize(dataset.test_images[:16], dataset.mean, dataset.std)
        check_invariance(model, trees.index(theta_1, 0), few, check_key_)
        match = match_activations(model, theta_1, theta_2, dataset)
        identity = {group: jnp.tile(jnp.arange(p.shape[1]), (self.pairs, 1)) for group, p in match.P.items()}

        metrics: dict[str, PathMetrics] = {}
        learned: dict[str, PamFit] = {}
        curve = bezier(model.spec)
        for how, P in (("unaligned", identity), ("aligned", match.P)):
            ends = (fit_key, model, curve, theta_1, theta_2, dataset, P)
            stage = Recorder(f"fitting {self.pairs} curves, {how}", run, f"curves_{how}")
            fit = fit_curve(*ends, FitConfig(epochs=self.epochs), recorder=stage)
            stage = Recorder(f"PAM, {self.pairs} curves, {how}", run, f"pam_{how}")
            learned[how] = fit_pam(*ends, learning, recorder=stage)
            line = linear(model.spec).bind_pairs(theta_1, theta_2, None, P)
            for kind, path in (("linear", line), ("bezier", fit.path), ("PAM", learned[how].path)):
                metrics[f"{kind}_{how}"] = evaluate_path(model, path, dataset)
        named = {f"PAM, {how}": fit for how, fit in learned.items()}
        run.figure("pam", pam.figure(named, f"PAM on handwritten digits, mean of {self.pairs} pairs"))
        run.figure("paths", _paths_figure(metrics, self.pairs))
        run.figure("correlation", _correlation_figure(match))
        run.finish(
            {
                "paths": {kind: summarized(metrics[kind]) for kind in KINDS},
                "correlation": _signature(match),
                "pam": {how: pam.results_of(fit) for how, fit in learned.items()},
            }
        )


def summarized(metrics: PathMetrics) -> dict[str, Any]:
    """Of paths of many pairs, the mean and standard deviation of what the tables show."""
    summary = metrics.summary()
    return {
        "train_loss_mean": mean_and_std(summary["train_loss"]["mean"]),
        "test_accuracy_mean": mean_and_std(summary["test_accuracy"]["mean"]),
        "test_accuracy_min": mean_and_std(summary["test_accuracy"]["min"]),
        "barrier": mean_and_std(barrier(metrics)),
    }


def cells(summary: dict[str, Any]) -> list[str]:
    """What `summarized` returned, as the cells of a table under HEAD."""
    return [
        plus_minus(summary["train_loss_mean"]),
        plus_minus(summary["test_accuracy_mean"], 2, 100),
        plus_minus(summary["test_accuracy_min"], 2, 100),
        plus_minus(summary["barrier"]),
    ]


def _signature(match: Match) -> dict[str, Any]:
    return {group: {name: mean_and_std(match.info[name][group]) for name in ("before", "after")} for group in match.P}


def _paths_figure(metrics: dict[str, PathMetrics], pairs: int) -> Any:
    lines = [
        plotting.Line(
            kind.replace("_", ", ").replace("bezier", "Bezier"),
            metrics[kind].train_loss,
            metrics[kind].test_accuracy,
            pam.color_of(kind),
            STYLES[kind.partition("_")[0]],
        )
        for kind in KINDS
    ]
    title = f"Handwritten digits, MLP 64-32-32-10, mean ± one standard deviation of {pairs} pairs"
    return plotting.along_paths(metrics[KINDS[0]].ts, lines, title)


def _correlation_figure(match: Match) -> Any:
    group = next(iter(match.P))
    before = match.info["correlation"][group][0]
    signature = {name: (match.info["before"][name], match.info["after"][name]) for name in match.P}
    after = before[:, np.asarray(match.P[group][0])]
    title = f"Neuron alignment: {group} of the first pair, and every layer over all pairs"
    return plotting.correlation(before, after, signature, title, group=group, method="activations")


def report(run: RunFolder) -> None:
    """Print the table of a finished quickstart, and where its figures are."""
    paths = (run.results or {})["paths"]
    rows = [
        [
            kind.replace("_", ", ").replace("bezier", "Bezier"),
            *cells(paths[kind]),
        ]
        for kind in KINDS
    ]
    count = len(paths[KINDS[0]]["barrier"]["values"])
    print(table(["path", *HEAD], rows))
    print(f"Mean ± standard deviation over {count} pairs, of values along 61 points of each path.")
    for how, kept in (run.results or {})["pam"].items():
        print(pam.lines(f"PAM, {how}", kept))
    for name in ("figures/paths.png", "figures/correlation.png", "figures/pam.png", "results.json"):
        print(f"  {run.path / name}")
