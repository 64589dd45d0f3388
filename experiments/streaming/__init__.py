"""Batches from the host: a pass over data larger than memory, and an epoch beside arrays on the device.

    python -m experiments.streaming
    python -m experiments.streaming --data cifar10.npz --models tinyten mlp

The first command makes 10 GB of images of 64x64x3 bytes anew in every pass, by a counter-based generator, and reads
them alone, trains two small networks on the means of patches for an epoch, evaluates them and matches their
activations. The second measures an epoch of a data set from arrays on the device, from slices of arrays on the host
and, where it is installed, from grain; rounds alternate between them, after a first one that compiles. Seconds of the
first command include compiling; `peak` is the largest resident memory of the process so far, JAX included.

The first command takes 90 seconds on two cores of a CPU, for 813,824 images, with 256 MB of blocks:

    source alone  1,837 MB/s  peak 249 MB
    epoch           270 MB/s  peak 679 MB
    evaluate        291 MB/s  peak 722 MB
    match           463 MB/s  peak 722 MB
"""
