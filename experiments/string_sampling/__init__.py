"""The experiments of "Topology and Geometry of Half-Rectified Network Optimization" (Freeman and Bruna, 2017).

    python -m experiments.string_sampling
    python -m experiments.string_sampling --tasks mnist cifar10 ptb --mnist F.npz --cifar10 F.npz --ptb FOLDER
    python -m experiments.string_sampling --tasks mnist cifar10 ptb --ptb FOLDER --preset paper --split test

For every task and threshold, pairs of networks are trained to the threshold and joined by dynamic string
sampling, as they are and with the second network's units matched to the first one's; connected strings are then
relaxed at the level of their threshold. Writes the normalised length and the number of beads against the threshold
(Figure 1, Table 1; for tasks with several thresholds) with their power laws, of connected strings alone and of all,
those that were given up being censored; strings on their principal axes at several depths (Figures 3 and 4); and
results.json. The task `permutation` is the counter-example of appendix E: a network and its copy with two units
exchanged. The same command again resumes from the last complete depth.

`small` is for two cores: quadratic, cubic and permutation, and mnist, cifar10 and ptb, of which narrow networks
are joined at four thresholds each. `paper` has the published networks and thresholds; it is for a GPU. Thresholds are
on the training split unless --split says otherwise; the paper's are on the test split. They are of the mean absolute
error of the polynomials, the error rate of images and the perplexity of texts, unless --metric says otherwise.
Segments may rise above the threshold by --tolerance, a tenth of it for most tasks, as published.
The paper gives its numbers in a figure only, and in words: its words are printed beside our numbers.
"""
