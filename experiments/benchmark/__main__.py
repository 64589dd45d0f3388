"""`python -m experiments.benchmark`."""

from experiments import benchmark
from experiments.benchmark.benchmark import Benchmark, main
from experiments.study import command

command(benchmark, Benchmark, main)
