"""`python -m experiments.dropout_stability`."""

from experiments.dropout_stability.study import Config, main
from experiments.study import command

command(Config, main)
