"""`python -m experiments.neuron_alignment`."""

from experiments import neuron_alignment
from experiments.neuron_alignment.study import Config, main
from experiments.study import command

command(neuron_alignment, Config, main)
