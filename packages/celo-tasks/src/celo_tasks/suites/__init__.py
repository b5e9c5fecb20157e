"""Evaluation tasks, one module per group: each a function of a name, a data set and a data folder, see `registry`."""
