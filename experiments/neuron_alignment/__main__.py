"""`python -m experiments.neuron_alignment`."""

from experiments.neuron_alignment.study import Config, main
from experiments.study import command

command(Config, main)
