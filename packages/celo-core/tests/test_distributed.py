"""Two processes, joined by jax.distributed over gloo, give what one process gives on two devices."""

import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import chex
import numpy as np
import pytest

from celo_core.meta_training import checkpoints

SCRIPT = """
    import sys
    sys.path.insert(0, {tests!r})
    import jax
    number, port, folder, stop = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "stop"
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize("localhost:" + port, 2, number)
    assert jax.process_count() == 2 and len(jax.devices()) == 2 and len(jax.local_devices()) == 1
    import test_meta_run
    # Only the second process's ``stop`` returns true: both must stop.
    asked = iter([False, False, True])
    run = lambda **kwargs: test_meta_run.run_phase(test_meta_run.make_trainer(devices=jax.devices()), folder, **kwargs)
    run(stop=(lambda: number == 1 and next(asked)) if stop else lambda: False)
"""


def run_two(folder, tests, *, stop=False):
    """Runs the script in two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    script = textwrap.dedent(SCRIPT.format(tests=str(tests)))
    # Each process has one CPU device, the default, not the eight of this test run.
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(number), port, str(folder), "stop" if stop else "go"],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    """And a stopped job can be resumed, in two processes or in one."""
    import jax
    from test_meta_run import CONFIG, make_trainer, run_phase

    tests = pathlib.Path(__file__).parent
    one = make_trainer(devices=jax.devices()[:2])
    run_phase(one, tmp_path / "one")
    run_two(tmp_path / "two", tests, stop=True)
    assert checkpoints.load_metadata(tmp_path / "two" / "checkpoint.npz")["iteration"] == 6
    run_two(tmp_path / "two", tests)
    states = [checkpoints.load_checkpoint(tmp_path / name / "checkpoint.npz", one.example()) for name in ("one", "two")]
    assert int(states[1].iteration) == CONFIG.iterations
    # The same program on the same number of devices; gloo may add in another order: a float32 rounding per iteration.
    chex.assert_trees_all_close(states[0], states[1], rtol=1e-5, atol=1e-6)
    lines = (tmp_path / "two" / "log.jsonl").read_text().splitlines()
    assert len(lines) == CONFIG.iterations // CONFIG.block, "one process writes the log"
    assert np.all(np.isfinite(states[1].theta["rule"]["log_learning_rate"]))
