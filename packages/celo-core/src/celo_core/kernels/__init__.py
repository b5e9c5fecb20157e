"""The fused update of learned optimizers: one implementation in XLA, one in Pallas for GPUs."""

from celo_core.kernels.interface import Accumulators as Accumulators
from celo_core.kernels.interface import Batch as Batch
from celo_core.kernels.interface import UpdateRule as UpdateRule
from celo_core.kernels.interface import Weights as Weights
from celo_core.kernels.update import IMPLEMENTATIONS as IMPLEMENTATIONS
from celo_core.kernels.update import step_seed as step_seed
from celo_core.kernels.update import update_tree as update_tree
