"""When does linear mode connectivity appear? Spawning, permutations, merging, and landscapes that theory explains.

    python -m experiments.linear_connectivity --mnist mnist.npz --cifar10 cifar10.npz
    python -m experiments.linear_connectivity --tasks spawning merging --data mnist --mnist digits
    python -m experiments.linear_connectivity --preset paper

spawning: a network is trained to a step k, and from there two copies of it, each with an order of the data of its
own; the rise of error and loss on the straight line between them, against k (Frankle et al. 2020, Figure 3).
Theirs for MNIST is stable from its initial values on, ResNet-20 on CIFAR-10 from 3% of training on. conjecture: the
rise of the loss between two networks of different seeds, before and after matching by activations, by weights, by
straight-through matching and by PAM, against width and time of training (Entezari et al. 2021 conjecture that nothing
is left of it for wide networks; Git Re-Basin, Ainsworth et al. 2022, finds so for some). merging: two networks
trained on 80/20 and 20/80 parts of the classes, merged (Git Re-Basin, section 5): there the merged network has a
lower test loss than both, and the ensemble a lower one still. tractable (Zhang 2024, slides): generalised linear
models, the top eigenvector of a matrix, matrices of low rank, sensing and completion (equations 1 to 3, Definition 9,
Theorems 6 and 10, Lemmas 12 and 13), and a loss that symmetry makes nonconvex; three minutes.

`small` takes 16 minutes for MNIST and 70 for CIFAR-10 on one CPU core: MLPs on 10,000 images, TinySix on 10,000.
`paper` has an MLP of three layers of 512 units and ResNet-20, all images and the published number of steps; it is for a
GPU. The papers' numbers are in figures but for those above. The same command again resumes where it was stopped.
"""
