"""`python -m experiments.streaming`."""

from experiments.streaming.streaming import Streaming, main
from experiments.study import command

command(Streaming, main)
