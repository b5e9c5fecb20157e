"""Estimators of meta-gradients, one file each."""

from celo_core.estimators.pes import PairState as PairState
from celo_core.estimators.pes import TruncatedPES as TruncatedPES
from celo_core.estimators.pes import pair_gradient as pair_gradient
