"""Seconds of mcjax beside those of plain PyTorch loops that do the same work, both measured in this run.

    pip install -e '.[bench]'
    python -m experiments.benchmark --data cifar10 --out benchmark.json
    python -m experiments.benchmark --data cifar10.npz --models tinyten --pairs 1 --rounds 7
    python -m experiments.benchmark --data digits --models mlp --widths 32 32

Workloads: an epoch of training (one network a pair); an epoch of fitting a Bezier curve, which is PAM's curve
half-step too; an epoch of PAM's permutation half-step; matching activations; a path at 61 points, train and
test images, batch statistics re-estimated at each; and a plane of 21x21 points, test images (for the first
pair: planes are measured one by one). One pair, and six at once. PyTorch works as the public codes do: one
pair after another, one t after another, one step a call, data normalised before the clock starts (mcjax
normalises inside its programs, but both match normalised images). No augmentation, except in rows that say so.

Method: rounds alternate between the two, the first is left out; medians are shown. `ratio` is PyTorch's
seconds over mcjax's, the median over rounds with the least and the most: above 1 mcjax is faster.
`compile` is the excess of the first call over the others. GFLOP/s are those of mcjax: operations as XLA
counts them in one step or one forward pass, times their number; `of peak` is their share of the rate of the largest
matrix product in float32 measured in this run. `memory` is that of XLA's largest program, and of PyTorch where it can
tell (CUDA). "the other way" runs pairs under vmap where mcjax runs them one after another, or the reverse.

Sizes are in the table. On the CPU those of ResNet32 and VGG16 are small, on both sides alike, so that
everything takes about 50 minutes on two idle cores; an accelerator gets full ones. On a machine with
other jobs set OMP_WAIT_POLICY=passive, or the threads of PyTorch spin and wait for those jobs, up to 30
times as long. On NVIDIA GPUs both sides multiply float32 in TF32, JAX's default, unless --precision
float32; mcjax multiplies by permutations, and correlates, in full float32 in any case.
"""
