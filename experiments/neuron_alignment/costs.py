"""What every stage of the neuron-alignment study will cost, for its line of progress."""

import jax
import jax.numpy as jnp

from experiments.display import BACKWARD
from experiments.neuron_alignment.cell import LINES, Settings
from experiments.neuron_alignment.paper import CLASSES
from mcjax import Dataset, Model


def planned_costs(cell: str, model: Model, data: Dataset, settings: Settings) -> dict[str, tuple[float, int]]:
    """Of every stage of a cell its floating-point operations, roughly, and its epochs, by the stage's name."""
    image = _forward(model)
    train, test, pairs = len(data.train_labels), len(data.test_labels), settings.pairs
    calibration = settings.calibration_images or train
    network = image * (calibration + train + test)
    one_plane = image * settings.plane_points**2 * (calibration + (settings.plane_images or test))
    epoch = image * train * (1 + BACKWARD)

    costs: dict[str, tuple[float, int]] = {
        "networks": (2 * pairs * epoch * settings.networks.epochs, settings.networks.epochs),
        "match": (2 * pairs * image * train / 5, 0),
        "networks measured": (2 * pairs * image * (train + test), 0),
        "ensembles": (11 * pairs * image * (calibration + test), 0),
    }
    for name in CLASSES:
        if not name.startswith("PAM"):
            costs[name] = (pairs * epoch * settings.curve.epochs, settings.curve.epochs)
        elif settings.pam is not None:
            pam = settings.pam
            epochs = pam.iterations * (pam.permutation_epochs + pam.epochs)
            # A first permutation is as a rule followed by two curves; then every candidate is measured on the grid.
            candidates = pam.iterations * (pam.samples + 1) * pam.objective_points * min(pam.objective_images, train)
            costs[name] = (pairs * (epoch * (epochs + pam.epochs) + image * candidates), epochs)
    for name in (*LINES, *settings.classes):
        costs[f"along {name}"] = (pairs * settings.points * network, 0)
    for name in ("unaligned", "aligned"):
        costs[f"signature {name}"] = (pairs * image * (2 * calibration + 8 * train / 5), 0)
    for name in ("lines", "unaligned", "aligned"):
        costs[f"plane {name}"] = (one_plane, 0)
    return {f"{cell}_{name}".replace(" ", "_"): cost for name, cost in costs.items()}


def _forward(model: Model) -> float:
    """Floating-point operations of a forward pass of one image, by XLA's count."""
    theta = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
    counted = jax.jit(model.apply).lower(theta, images).cost_analysis() or {}
    return float(counted.get("flops", 1.0))
