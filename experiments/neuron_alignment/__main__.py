"""`python -m experiments.neuron_alignment`."""

import tyro

from experiments import neuron_alignment
from experiments.neuron_alignment.study import Study, main
from mcjax.cli import guarded, leave

config = (tyro.conf.OmitArgPrefixes,)
leave(
    lambda: guarded(
        "neuron_alignment", lambda: main(tyro.cli(Study, description=neuron_alignment.__doc__, config=config))
    )
)
