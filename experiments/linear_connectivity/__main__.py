"""`python -m experiments.linear_connectivity`."""

from experiments.linear_connectivity.study import Config, main
from experiments.study import command

command(Config, main)
