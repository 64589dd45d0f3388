"""`python -m experiments.linear_connectivity`."""

from experiments import linear_connectivity
from experiments.linear_connectivity.study import Config, main
from experiments.study import command

command(linear_connectivity, Config, main)
