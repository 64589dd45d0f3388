"""mcjax: how trained networks are connected, once the permutation symmetry between them is removed."""

from importlib.metadata import PackageNotFoundError, version

from mcjax import checkpoint, data, landscape, matching, models, paths, symmetry, training
from mcjax.data import Augmentation, Dataset
from mcjax.errors import InputError, RunError
from mcjax.landscape import PathMetrics, arc_length, barrier, evaluate_path, normalized_length, reestimate
from mcjax.matching import Match, match_activations
from mcjax.models import Model
from mcjax.paths import (
    Curve,
    CurveFit,
    FitConfig,
    PamConfig,
    PamFit,
    bezier,
    fit_curve,
    fit_pam,
    linear,
    polygonal_chain,
)
from mcjax.symmetry import (
    Axis,
    PermutationSpec,
    SpecError,
    check_invariance,
    compose,
    identity_permutation,
    infer_activations,
    infer_spec,
    invert,
    load_permutation,
    nearest_permutation,
    permute,
    project_birkhoff,
    random_permutation,
    save_permutation,
    sinkhorn,
)
from mcjax.training import Endpoints, Recorder, TrainConfig, evaluate, train_endpoints

try:
    __version__ = version("mcjax")
except PackageNotFoundError:
    __version__ = "unknown"

__all__ = [
    "Augmentation",
    "Axis",
    "Curve",
    "CurveFit",
    "Dataset",
    "Endpoints",
    "FitConfig",
    "InputError",
    "Match",
    "Model",
    "PamConfig",
    "PamFit",
    "PathMetrics",
    "PermutationSpec",
    "Recorder",
    "RunError",
    "SpecError",
    "TrainConfig",
    "arc_length",
    "barrier",
    "bezier",
    "check_invariance",
    "checkpoint",
    "compose",
    "data",
    "evaluate",
    "evaluate_path",
    "fit_curve",
    "fit_pam",
    "identity_permutation",
    "infer_activations",
    "infer_spec",
    "invert",
    "landscape",
    "linear",
    "load_permutation",
    "match_activations",
    "matching",
    "models",
    "nearest_permutation",
    "normalized_length",
    "paths",
    "permute",
    "polygonal_chain",
    "project_birkhoff",
    "random_permutation",
    "reestimate",
    "save_permutation",
    "sinkhorn",
    "symmetry",
    "train_endpoints",
    "training",
]
