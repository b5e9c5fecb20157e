"""Bundled and published weights update parameters as they did when they were recorded, whatever has happened to the code."""

import jax
import numpy as np
import pytest
import recording

TOLERANCES = {"float32": 1e-5, "bfloat16": 0.15}
"""Of the largest update of a tensor. Float32: Newton-Schulz iterations multiply rounding by up to 3.4^5. Bfloat16: moments are
rounded stochastically, to 1 part in 256, and which way depends on how tensors are batched."""


@pytest.mark.parametrize("name", recording.RUNS)
def test_updates_are_the_recorded_ones(name):
    if jax.device_count() > 1 and "bfloat16" in name:
        pytest.skip("moments are rounded stochastically, per batch, and batches are others on several devices")
    if name.startswith("published") and not recording.published(name.split()[1]).is_file():
        pytest.skip("the published weights are not on this machine: set CELO_SHARED to the folder that holds them")
    recorded = np.load(recording.FILE, allow_pickle=False)
    tolerance = TOLERANCES["bfloat16" if "bfloat16" in name else "float32"]
    found = recording.updates(name)
    assert found.keys() == {key for key in recorded.files if key.split("/")[0] == name}
    for key, x in found.items():
        np.testing.assert_allclose(x, recorded[key], rtol=0, atol=tolerance * np.abs(recorded[key]).max(), err_msg=key)
