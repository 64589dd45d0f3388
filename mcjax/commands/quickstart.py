"""`mcjax quickstart`: train, match, connect and measure small networks on real images, in a minute."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mcjax import data, plotting, trees
from mcjax.commands.match import check_symmetry, correlation_figure
from mcjax.commands.networks import read_model
from mcjax.commands.options import Out, TrainOptions, open_run, seed_key
from mcjax.commands.pam import PamOptions, color_of, pam_figure, pam_lines, pam_results
from mcjax.curves import FitConfig, PamConfig, PamFit, bezier, fit_curve, fit_pam, linear
from mcjax.errors import InputError
from mcjax.landscape import PathMetrics, barrier, evaluate_path
from mcjax.matching import Match, match_activations
from mcjax.runs import Recorder, checkpoint
from mcjax.runs.folder import RunFolder
from mcjax.runs.tables import mean_and_std, plus_minus, table
from mcjax.training import TrainConfig, supervised, train_endpoints

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
"""The description in the checkpoints, from which other commands read model and data."""


@dataclass(frozen=True)
class Quickstart:
    """Join pairs of small networks on scikit-learn's handwritten digits: six paths per pair, one table, three figures.

    Trains MLPs 64-32-32-10 from many seeds at once, matches the units of each pair, and fits Bezier curves with and
    without the matching, with P fixed or learned together with the curve (PAM). Measures loss and accuracy along
    these curves and along straight lines.
    """

    pairs: int = 6
    """Number of independent pairs of networks."""
    epochs: int = 60
    """Passes over the 1,437 training images, for the networks and for the curves."""
    seed: int = 0
    """Seed of everything."""
    out: Out = None

    def run(self) -> None:
        """Run the command, resume it, or report its results."""
        if self.pairs < 1:
            raise InputError(f"got pairs={self.pairs}, expected at least 1.")
        if self.epochs < 1:
            raise InputError(f"got epochs={self.epochs}, expected at least 1.")
        key = seed_key(self.seed)
        learning = PamOptions().config(TrainOptions(epochs=self.epochs))
        config = {"pairs": self.pairs, "epochs": self.epochs, "seed": self.seed, "pam": asdict(learning)}
        run = open_run("quickstart", self.out or "runs/quickstart", config)
        if run.results is None:
            self._finish(run, key, learning)
        run.report(partial(report, run.path))

    def _finish(self, run: RunFolder, key: jax.Array, learning: PamConfig) -> None:
        model = read_model(ABOUT["model"])
        task = supervised(model, data.load("digits"))
        train_key, invariance_key, fit_key = jax.random.split(key, 3)
        keys = jax.random.split(train_key, 2 * self.pairs)
        recorder = Recorder(f"training {2 * self.pairs} networks", run, "networks")
        endpoints = train_endpoints(keys, task, TrainConfig(epochs=self.epochs), recorder=recorder)
        theta_1, theta_2 = (trees.index(endpoints.theta, slice(i, None, 2)) for i in range(2))
        for i in range(2 * self.pairs):
            checkpoint.save(run.checkpoints(f"network_{i}"), trees.index(endpoints.theta, i), ABOUT)
        check_symmetry(task, trees.index(theta_1, 0), invariance_key)
        match = match_activations(task, theta_1, theta_2)
        identity = {group: jnp.tile(jnp.arange(p.shape[1]), (self.pairs, 1)) for group, p in match.P.items()}

        metrics: dict[str, PathMetrics] = {}
        learned: dict[str, PamFit] = {}
        curve = bezier(model.spec)
        for how, P in (("unaligned", identity), ("aligned", match.P)):
            ends = (fit_key, task, curve, theta_1, theta_2, P)
            stage = Recorder(f"fitting {self.pairs} curves, {how}", run, f"curves_{how}")
            fit = fit_curve(*ends, FitConfig(epochs=self.epochs), recorder=stage)
            stage = Recorder(f"PAM, {self.pairs} curves, {how}", run, f"pam_{how}")
            learned[how] = fit_pam(*ends, learning, recorder=stage)
            line = linear(model.spec).bind_pairs(theta_1, theta_2, None, P)
            for kind, path in (("linear", line), ("bezier", fit.path), ("PAM", learned[how].path)):
                metrics[f"{kind}_{how}"] = evaluate_path(task, path)
        named = {f"PAM, {how}": fit for how, fit in learned.items()}
        run.figure("pam", pam_figure(named, f"PAM on handwritten digits, mean of {self.pairs} pairs"))
        run.figure("paths", _paths_figure(metrics, self.pairs))
        title = f"Neuron alignment: {next(iter(match.P))} of the first pair, and every layer over all pairs"
        run.figure("correlation", correlation_figure(match, title, "activations"))
        run.finish(
            {
                "paths": {kind: summarized(metrics[kind]) for kind in KINDS},
                "correlation": _mean_correlations(match),
                "pam": {how: pam_results(fit) for how, fit in learned.items()},
            }
        )


def summarized(metrics: PathMetrics) -> dict[str, Any]:
    """Mean and standard deviation over pairs of the values in the tables, of paths of many pairs."""
    summary = metrics.summary()
    return {
        "train_loss_mean": mean_and_std(summary["train_loss"]["mean"]),
        "test_accuracy_mean": mean_and_std(summary["test_accuracy"]["mean"]),
        "test_accuracy_min": mean_and_std(summary["test_accuracy"]["min"]),
        "barrier": mean_and_std(barrier(metrics)),
    }


def cells(summary: dict[str, Any]) -> list[str]:
    """The cells of a row under HEAD, from the result of `summarized`."""
    return [
        plus_minus(summary["train_loss_mean"]),
        plus_minus(summary["test_accuracy_mean"], 2, 100),
        plus_minus(summary["test_accuracy_min"], 2, 100),
        plus_minus(summary["barrier"]),
    ]


def _mean_correlations(match: Match) -> dict[str, Any]:
    return {
        group: {"before": mean_and_std(match.info["before"][group]), "after": mean_and_std(match.info["after"][group])}
        for group in match.P
    }


def _paths_figure(metrics: dict[str, PathMetrics], pairs: int) -> Any:
    lines = [
        plotting.Line(
            _label(kind),
            metrics[kind].train_loss,
            metrics[kind].test_accuracy,
            color_of(kind),
            STYLES[kind.partition("_")[0]],
        )
        for kind in KINDS
    ]
    title = f"Handwritten digits, MLP 64-32-32-10, mean ± one standard deviation of {pairs} pairs"
    return plotting.along_paths(metrics[KINDS[0]].ts, lines, title)


def _label(kind: str) -> str:
    return kind.replace("_", ", ").replace("bezier", "Bezier")


def report(path: Path, results: dict[str, Any]) -> None:
    """Print the table of a finished quickstart at `path`, and the paths of its figures."""
    paths = results["paths"]
    rows = [[_label(kind), *cells(paths[kind])] for kind in KINDS]
    count = len(paths[KINDS[0]]["barrier"]["values"])
    print(table(["path", *HEAD], rows))
    print(f"Mean ± standard deviation over {count} pairs, of values along 61 points of each path.")
    for how, kept in results["pam"].items():
        print(pam_lines(f"PAM, {how}", kept))
    for name in ("figures/paths.png", "figures/correlation.png", "figures/pam.png", "results.json"):
        print(f"  {path / name}")
