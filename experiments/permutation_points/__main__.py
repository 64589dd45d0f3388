"""`python -m experiments.permutation_points`."""

from experiments import permutation_points
from experiments.permutation_points.study import Config, main
from experiments.study import command

command(permutation_points, Config, main)
