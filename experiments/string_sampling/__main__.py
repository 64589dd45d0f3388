"""`python -m experiments.string_sampling`."""

from experiments.string_sampling.study import Config, main
from experiments.study import command

command(Config, main)
