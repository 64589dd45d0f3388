"""`python -m experiments.benchmark`."""

import tyro

from experiments import benchmark
from experiments.benchmark.benchmark import Benchmark, main
from mcjax.cli import guarded, leave

leave(lambda: guarded("benchmark", lambda: main(tyro.cli(Benchmark, description=benchmark.__doc__))))
