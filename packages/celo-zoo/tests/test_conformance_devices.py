"""What is shipped passes the checks of the conformance suite that need several devices.

They run in a process of their own, since how many devices there are is settled before JAX starts. "celo_paper" has the default
config, on which celo-core's tests run these checks.
"""

import os
import subprocess
import sys

import pytest
from test_conformance import BUNDLED

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
import celo_zoo
from celo_core.testing import DEVICE_CHECKS, check_optimizer
check_optimizer(lambda num_steps: celo_zoo.optimizer(sys.argv[1], num_steps), only=DEVICE_CHECKS)
"""


@pytest.mark.parametrize("name", [name for name in BUNDLED if name != "celo_paper"])
def test_on_eight_devices(name):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, name], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
