"""Training problems, data sets and tuned baselines to meta-train and to evaluate learned optimizers with."""

__version__ = "0.1.0"
