"""`python -m experiments.dropout_stability`."""

from experiments import dropout_stability
from experiments.dropout_stability.study import Config, main
from experiments.study import command

command(dropout_stability, Config, main)
