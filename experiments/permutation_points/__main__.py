"""`python -m experiments.permutation_points`."""

import tyro

from experiments import permutation_points
from experiments.permutation_points.study import Study, main
from mcjax.cli import guarded, leave

config = (tyro.conf.OmitArgPrefixes,)
leave(
    lambda: guarded(
        "permutation_points", lambda: main(tyro.cli(Study, description=permutation_points.__doc__, config=config))
    )
)
