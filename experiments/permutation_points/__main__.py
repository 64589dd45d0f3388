"""`python -m experiments.permutation_points`."""

from experiments.permutation_points.study import Config, main
from experiments.study import command

command(Config, main)
