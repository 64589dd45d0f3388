"""Experiments: one file a paper, each run as `python -m experiments.NAME`."""
