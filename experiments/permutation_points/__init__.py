"""The experiments of "Weight-space symmetry in deep networks gives rise to permutation saddles" (Brea et al. 2019).

    python -m experiments.permutation_points --mnist mnist.npz
    python -m experiments.permutation_points --tasks toy count merged
    python -m experiments.permutation_points --preset paper --mnist mnist.npz

toy (Figure 1): two units of a network 2-5-1 are brought together, the loss minimised at every distance; all
pairs, and three of them in full; at the permutation point all units are put into another order at constant loss. With
ReLU as published, and with tanh. mnist (Figure 3): the two most similar units of the second hidden layer of networks
784-H-H-10 that imitate a trained one; loss and training accuracy on the way, and the barrier against H. spectrum:
zero and negative eigenvalues of the Hessian at permutation points, beside the claims of section 4.2. count: the number
of permutation points (Proposition 1, Lemma 1). merged: the same eigenvalues where more than two units are one, and in
networks of two and three hidden layers (section 4.3, Proposition 2).

The paper's numbers: barriers of 6e-6 (A, B) and 3e-5 (C) in Figure 1, for a teacher of its own; losses up to 1e-2 and
accuracies from 0.94 to 1 in Figure 3, the barrier falling with H; "in most cases the loss increased monotonically".
`small` takes 42 minutes on one CPU core, of which toy and count take 6 and merged 9: MNIST averaged to 7 x 7 pixels,
5,000 images, 40 distances. `paper` has all images and pixels and the published numbers of distances; it is for a GPU.
The same command again resumes where it was stopped.
"""
