"""The experiments of "Topology and Geometry of Half-Rectified Network Optimization" (Freeman and Bruna, 2017).

    python -m experiments.string_sampling
    python -m experiments.string_sampling --tasks mnist --mnist mnist.npz
    python -m experiments.string_sampling --tasks mnist cifar10 ptb --ptb FOLDER --preset paper

For every task and threshold, pairs of networks are trained to the threshold and joined by dynamic string
sampling, as they are and with the second network's units matched to the first one's. Writes the normalised length
and the number of beads against the threshold (Figure 1, Table 1; for tasks with several thresholds), strings on
their principal axes at several depths (Figures 3 and 4), and results.json. The task `permutation` is the
counter-example of appendix E: a network and its copy with two units exchanged. The same command again resumes
from the last complete depth.

`small` is for two cores: quadratic, cubic and permutation take about three minutes together, and mnist, cifar10
and ptb, one narrow pair at one threshold each, 2 to 10 minutes. `paper` has the published networks and thresholds; it
is for a GPU. Thresholds are on the training split unless --split says otherwise; the paper's are on the test split.
The paper gives its numbers in a figure only, and in words: its words are printed beside our numbers.
"""
