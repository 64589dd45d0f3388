"""`python -m experiments.dropout_stability`."""

import tyro

from experiments import dropout_stability
from experiments.dropout_stability.study import Study, main
from mcjax.cli import guarded, leave

config = (tyro.conf.OmitArgPrefixes,)
leave(
    lambda: guarded(
        "dropout_stability", lambda: main(tyro.cli(Study, description=dropout_stability.__doc__, config=config))
    )
)
