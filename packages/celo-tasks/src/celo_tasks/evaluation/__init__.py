"""The evaluation protocol: optimizers on a suite of tasks, from several seeds, against tuned Adam."""
