"""Experiments: one package a paper, run as `python -m experiments.NAME`, on the machinery of `experiments.study`."""
