"""The study of "Optimizing Loss Landscape Connectivity via Neuron Alignment": Tables 1 to 5, Figures 1 to 14.

    python -m experiments.neuron_alignment --data cifar10 cifar100 stl10 --preset paper
    python -m experiments.neuron_alignment --data cifar10.npz --known-as cifar10 --models tinysix --pairs 3
    python -m experiments.neuron_alignment --data digits --models mlp --widths 32 32 --schemes descent published

The paper is the submission to ICLR 2020, whose tables and figures these are. Trains pairs of networks, matches
their units, fits curves of four classes (unaligned, PAM unaligned, PAM aligned, aligned), and measures them: loss
and accuracy along the curves, planes, correlation signatures, spectra, ensembles, exchanges of two units. PAM is
fitted by either scheme or by both: by descent, or as published. Writes results.json, figures and checkpoints into
one folder and prints the tables, with the paper's numbers beside ours. The same command again resumes where it
was stopped, to the same results. `mcjax report RUN` makes a page of it.

`paper` is the paper's training: 250 epochs a network, 200 a curve, 4 x (20 + 40) for PAM as published, batches of
64 on CIFAR-10. `fast` is 30, 32 and 4 x (4 + 8). Pairs: 6 on CIFAR-10 and the digits, 3 on other sets, as in the
paper. PAM is left out for VGG16, as there. Cost: the digits take minutes on two cores; what the others took, and
what came out, is in experiments/README.md.
"""
