"""`python -m experiments.string_sampling`."""

import tyro

from experiments import string_sampling
from experiments.string_sampling.study import Study, main
from mcjax.cli import guarded, leave

config = (tyro.conf.OmitArgPrefixes,)
leave(
    lambda: guarded(
        "string_sampling", lambda: main(tyro.cli(Study, description=string_sampling.__doc__, config=config))
    )
)
