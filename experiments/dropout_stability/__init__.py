"""The experiments of "Explaining Landscape Connectivity of Low-cost Solutions for Multilayer Nets" (2019).

    python -m experiments.dropout_stability --mnist mnist.npz --cifar10 cifar10.npz
    python -m experiments.dropout_stability --tasks mnist --mnist digits
    python -m experiments.dropout_stability --preset paper

mnist (Figure 2): a network of three layers of 32 filters; its loss with filters dropped, the straight line to its
dropout network, and networks of a few filters. cifar10 (Figure 3): VGG11 trained with channel-wise dropout; its
cushions, contraction and smoothness, and loss and accuracy along the path of Theorem 3. Both: the highest loss on
all kinds of paths between the same two networks: constructed (Theorems 1 to 3), fitted and sampled, matched and not.
wide: the energy gap between networks of one hidden layer against their width, and the bound of it, between ends of
three kinds (Freeman and Bruna 2017, Theorem 2.4 and Corollary 2.5). coins: the probability that dropout raises the loss
little, against its rate and the width (Lemma 3), on MNIST.

`small` takes 41 minutes of one CPU core for mnist, 111 for cifar10 with a VGG11 of a quarter of the width, 16 for wide
and coins. `paper` has the published networks; it is for a GPU. Numbers in the paper's text are printed beside
ours; its other numbers are in figures. The same command again resumes where it was stopped.
"""
