"""`python -m experiments.benchmark`."""

from experiments.benchmark.benchmark import Benchmark, main
from experiments.study import command

command(Benchmark, main)
