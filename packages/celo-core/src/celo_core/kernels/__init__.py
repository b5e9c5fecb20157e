"""The fused update of per-parameter MLP optimizers: one implementation in XLA, one in Pallas for GPUs."""

from celo_core.kernels.interface import Accumulators as Accumulators
from celo_core.kernels.interface import Batch as Batch
from celo_core.kernels.interface import UpdateRule as UpdateRule
from celo_core.kernels.update import IMPLEMENTATIONS as IMPLEMENTATIONS
from celo_core.kernels.update import floors_of as floors_of
from celo_core.kernels.update import step_seed as step_seed
from celo_core.kernels.update import update_tree as update_tree
