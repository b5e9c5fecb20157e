"""The conformance suite on one CPU device, where sums are computed in parts and in blocks, and leaves are packed.

The other tests have eight simulated devices. The number is fixed when JAX starts, hence a separate process.
"""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax
from celo_core import Celo
from celo_core.kernels import reductions
from celo_core.testing import CHECKS, DEVICE_CHECKS, check_optimizer

assert reductions.on_one_cpu()
theta = Celo().init(jax.random.key(0))
# JAX's modes, wrappers and other frameworks do not depend on it; celo-zoo's tests run everything on one CPU.
others = {check.__name__ for check in CHECKS if check.__module__.endswith((".modes", ".wrappers", ".frameworks"))}
make = lambda num_steps, num_stacked_axes=None: Celo().build(theta, num_steps, num_stacked_axes=num_stacked_axes)
# As published, a tensor of zeros has no scale; and random meta-parameters do not train.
check_optimizer(make, skip=DEVICE_CHECKS | others | {"check_all_zeros", "check_convergence"})
"""


@pytest.mark.slow
def test_celo():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
