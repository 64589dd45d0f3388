"""`python -m experiments.streaming`."""

import tyro

from experiments.streaming.streaming import Streaming, main

main(tyro.cli(Streaming))
