"""The numbers of the paper, which the tables show beside ours.

The paper is "Optimizing Loss Landscape Connectivity via Neuron Alignment", a submission to ICLR 2020; its later version
(Tatro et al., NeurIPS 2020, "Optimizing Mode Connectivity via Neuron Alignment") has other experiments.

Mean and standard deviation over 6 pairs of networks on CIFAR-10, 3 on CIFAR-100 and STL-10, after 250
epochs for a network and 200 for a curve (160 for one of PAM's). Accuracies in percent, losses in nats.
"""

from collections.abc import Sequence

SCHEMES = {"descent": "PAM", "published": "published PAM"}
"""The schemes of PAM, and how the classes of their curves are named."""
SETS = ("cifar10", "cifar100", "stl10")
ENSEMBLES = ("ends", "unaligned", "aligned", "independent")


Numbers = dict[str, dict[str, float]]
"""A mean and a standard deviation by name."""


def _row(text: str, names: Sequence[str] = SETS) -> Numbers:
    """'73.8 0.4 38.8 0.2 64.1 0.3', a mean and a standard deviation a data set."""
    values = list(map(float, text.split()))
    pairs = zip(values[::2], values[1::2], strict=True)
    return {name: {"mean": mean, "std": std} for name, (mean, std) in zip(names, pairs, strict=True)}


# Table 1: parameters (for 10 classes, of TinySix for 100), depth, test accuracy of the networks.
NETWORKS = {
    "tinysix": (34_596, 6, _row("77.0 0.3 40.1 0.3 65.1 0.1")),
    "tinyten": (86_778, 10, _row("88.7 0.2 58.1 0.5 73.8 0.3")),
    "resnet32": (466_906, 32, _row("92.9 0.2 67.1 0.5 76.5 0.3")),
    "vgg16": (15_253_578, 16, _row("93.1 0.2 70.9 0.3 72.5 1.5")),
}

# Tables 2, 4 and 5, side by side: mean and lowest test accuracy along the curve, and train loss, each for all SETS.
_CURVES = """
tinysix  unaligned     | 73.8 0.4 38.8 0.2 64.1 0.3 | 71.6 0.6 35.9 2.3 62.6 0.6 | 0.896 0.008 2.636 0.008 0.931 0.014
tinysix  PAM unaligned | 75.8 0.4 41.2 0.3 64.5 0.3 | 74.8 0.5 39.8 0.2 63.4 0.4 | 0.826 0.006 2.501 0.015 0.914 0.010
tinysix  PAM aligned   | 76.3 0.3 41.4 0.5 65.4 0.2 | 75.7 0.4 39.9 0.3 64.8 0.1 | 0.813 0.008 2.489 0.018 0.863 0.005
tinysix  aligned       | 76.3 0.3 41.6 0.5 65.4 0.2 | 75.6 0.5 39.9 0.2 64.8 0.1 | 0.817 0.006 2.490 0.018 0.864 0.004
tinyten  unaligned     | 87.2 0.2 56.0 0.2 73.7 0.4 | 85.0 1.2 53.2 1.1 72.3 0.6 | 0.460 0.004 1.839 0.010 0.479 0.018
tinyten  PAM unaligned | 87.9 0.2 57.1 0.1 73.9 0.3 | 87.2 0.3 56.1 0.1 72.6 0.5 | 0.419 0.005 1.733 0.013 0.469 0.000
tinyten  PAM aligned   | 88.6 0.1 58.5 0.2 74.0 0.3 | 88.0 0.1 57.7 0.3 73.5 0.3 | 0.387 0.003 1.662 0.007 0.393 0.007
tinyten  aligned       | 88.6 0.1 58.7 0.2 74.1 0.3 | 88.6 0.1 57.7 0.4 73.4 0.3 | 0.392 0.003 1.693 0.008 0.389 0.007
resnet32 unaligned     | 92.4 0.2 66.5 0.2 76.6 0.2 | 91.2 0.7 64.7 0.4 75.7 0.3 | 0.212 0.005 1.124 0.005 0.292 0.007
resnet32 PAM unaligned | 92.5 0.1 66.8 0.1 76.7 0.3 | 91.7 0.3 65.1 1.0 76.0 0.4 | 0.191 0.002 1.093 0.011 0.283 0.001
resnet32 PAM aligned   | 92.5 0.1 66.9 0.2 76.9 0.2 | 91.8 0.2 65.3 0.6 76.1 0.3 | 0.192 0.002 1.086 0.011 0.283 0.001
resnet32 aligned       | 92.9 0.2 67.7 0.1 76.7 0.2 | 92.6 0.2 66.6 0.1 76.0 0.2 | 0.180 0.002 1.011 0.002 0.256 0.002
vgg16    unaligned     | 93.0 0.1 70.7 0.1 74.5 1.0 | 92.6 0.1 69.6 0.4 71.3 1.8 | 0.212 0.002 0.710 0.004 0.372 0.029
vgg16    aligned       | 93.3 0.1 71.6 0.1 74.7 0.8 | 93.0 0.1 70.8 0.1 71.3 1.8 | 0.198 0.001 0.676 0.005 0.366 0.015
"""


def _curves(table: int) -> dict[tuple[str, str], Numbers]:
    """Model and class of curves -> the row of one of the three tables."""
    found = {}
    for name, *rows in (line.split(" | ") for line in _CURVES.strip().splitlines()):
        model, curve = name.split(maxsplit=1)
        found[model, curve.strip()] = _row(rows[table])
    return found


MEAN_ACCURACY, MIN_ACCURACY, TRAIN_LOSS = map(_curves, range(3))

# Table 3: accuracy of ensembles, on CIFAR-100 alone: the ends; ends and middle of either curve; three networks.
ENSEMBLE_ACCURACY = {
    (model, name): {"cifar100": number}
    for model, row in (
        ("tinysix", "41.80 0.15 42.66 0.48 43.82 0.78 42.05 0.26"),
        ("tinyten", "61.23 0.36 61.39 0.25 62.40 0.30 61.76 0.01"),
        ("resnet32", "71.35 0.30 72.13 0.12 72.33 0.12 72.03 0.08"),
        ("vgg16", "74.00 0.17 74.69 0.22 74.91 0.10 74.88 0.06"),
    )
    for name, number in _row(row, ENSEMBLES).items()
}
