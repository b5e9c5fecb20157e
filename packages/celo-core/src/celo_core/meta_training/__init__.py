"""Meta-training: trainer and runs, checkpoints, lengths of unrolls, and the inner training that they unroll."""
