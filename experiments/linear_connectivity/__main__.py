"""`python -m experiments.linear_connectivity`."""

import tyro

from experiments import linear_connectivity
from experiments.linear_connectivity.study import Study, main
from mcjax.cli import guarded, leave

config = (tyro.conf.OmitArgPrefixes,)
leave(
    lambda: guarded(
        "linear_connectivity", lambda: main(tyro.cli(Study, description=linear_connectivity.__doc__, config=config))
    )
)
