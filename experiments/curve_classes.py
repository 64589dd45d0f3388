"""The four curve classes of Neuron Alignment's Table 2, between pairs of networks that were trained before.

    mcjax train --model tinysix --data cifar10.npz --networks 6 --epochs 20 --out runs/cifar
    python -m experiments.curve_classes runs/cifar --epochs 4 --permutation-epochs 2 --points 21

Networks 0 and 1, 2 and 3, ... are pairs. Unaligned and aligned curves are fitted for as many epochs as
the two PAM curves, all iterations together, under the same schedule. Writes results.json, the curves'
checkpoints and three figures into --out, and goes on where it was interrupted. The paper, TinySix on
CIFAR-10, six pairs of 250 epochs: mean accuracy along the curve 73.8 ± 0.4, 75.8 ± 0.4, 76.3 ± 0.3 and
76.3 ± 0.3; train loss 0.896 ± 0.008, 0.826 ± 0.006, 0.813 ± 0.008 and 0.817 ± 0.006 (Tables 2 and 5).
"""

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import tyro

from mcjax import (
    FitConfig,
    PamConfig,
    PamFit,
    PathMetrics,
    bezier,
    evaluate_path,
    fit_curve,
    fit_pam,
    match_activations,
    plotting,
    trees,
)
from mcjax.commands import pam
from mcjax.commands.networks import DataOptions, ModelOptions, TrainOptions, networks_of, open_run, read_network
from mcjax.commands.quickstart import HEAD, cells, summarized
from mcjax.errors import InputError
from mcjax.report import RunFolder, table
from mcjax.training import Recorder

CLASSES = ("unaligned", "PAM unaligned", "PAM aligned", "aligned")


@dataclass(frozen=True)
class CurveClasses:
    """Which networks, and how long to fit."""

    networks: tyro.conf.Positional[Path]
    """Run of `mcjax train` with an even number of networks."""
    images: DataOptions
    pairs: int | None = None
    """How many pairs (None: all)."""
    iterations: int = 4
    """Iterations of PAM."""
    epochs: int = 40
    """Curve epochs of one iteration."""
    permutation_epochs: int = 20
    """Permutation epochs of one iteration."""
    points: int = 61
    """Values of t to measure at."""
    calibration_images: int | None = None
    """Training images to re-estimate batch statistics on at every t (None: all)."""
    seed: int = 0
    """Seed of the fits."""
    out: str | None = None
    """Run folder (None: runs/curve_classes-HASH)."""


def main(config: CurveClasses) -> None:
    """Fit and measure the four classes, or report what was measured."""
    paths = networks_of(config.networks)
    count = len(paths) // 2 if config.pairs is None else config.pairs
    if not 0 < 2 * count <= len(paths):
        raise InputError(f"{config.networks} holds {len(paths)} networks: expected two for each of {count} pairs.")
    networks = [read_network(str(path), ModelOptions()) for path in paths[: 2 * count]]
    dataset, images = config.images.load(networks[0].about["data"])
    model = networks[0].model
    theta_1, theta_2 = (trees.stack([network.theta for network in networks[i::2]]) for i in range(2))
    settings = {**asdict(config), "networks": str(config.networks), "images": images, "out": None}
    run = open_run("curve_classes", config.out, settings)
    if run.results is None:
        shared = TrainOptions().config(dataset)
        total = {**shared, "epochs": config.iterations * config.epochs}
        options = pam.PamOptions(config.iterations, config.permutation_epochs).config(total)
        plain = FitConfig(**total)
        aligned = match_activations(model, theta_1, theta_2, dataset).P
        key, curve = jax.random.key(config.seed), bezier(model.spec)
        metrics: dict[str, PathMetrics] = {}
        fits: dict[str, PamFit] = {}
        for name in CLASSES:
            stage = Recorder(f"{name}, {count} pairs", run, name.replace(" ", "_"))
            P = None if name.endswith("unaligned") else aligned
            ends = (key, model, curve, theta_1, theta_2, dataset, P)
            began = time.monotonic()
            if name.startswith("PAM"):
                fits[name] = fit_pam(*ends, options, recorder=stage)
                path = fits[name].path
            else:
                path = fit_curve(*ends, plain, recorder=stage).path
            print(f"{name}: fitted in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            metrics[name] = evaluate_path(
                model, path, dataset, config.points, calibration_images=config.calibration_images
            )
        _figures(run, metrics, fits, options, f"{model.name} on {dataset.name}")
        run.finish(
            {
                "classes": {name: summarized(metrics[name]) for name in CLASSES},
                "pam": {name: pam.results_of(fit) for name, fit in fits.items()},
            }
        )
    report(run)


def _figures(
    run: RunFolder, metrics: dict[str, PathMetrics], fits: dict[str, PamFit], config: PamConfig, title: str
) -> None:
    lines = [
        plotting.Line(name, m.train_loss, m.test_accuracy, pam.color_of(name), "--" if name.startswith("PAM") else "-")
        for name, m in metrics.items()
    ]
    run.figure("paths", plotting.along_paths(metrics[CLASSES[0]].ts, lines, title))
    run.figure("objective", pam.figure(fits, title))
    run.figure("training", pam.training_figure(fits, config, title))


def report(run: RunFolder) -> None:
    """Print the tables of a finished run."""
    results = run.results or {}
    rows = [[name, *cells(values)] for name, values in results["classes"].items()]
    print(table(["curve class", *HEAD], rows))
    for name, fit in results["pam"].items():
        print(pam.lines(name, fit))
    print(f"Written to {run.path}")


if __name__ == "__main__":
    try:
        main(tyro.cli(CurveClasses, description=__doc__, config=(tyro.conf.OmitArgPrefixes,)))
    except InputError as error:
        raise SystemExit(f"curve_classes: {error}") from None
