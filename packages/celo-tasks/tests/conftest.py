"""Fixtures for the tests of celo_tasks."""

import os
from collections.abc import Callable
from pathlib import Path

# Before JAX starts. Tests compile much and compute little: without most of XLA's optimisations they take half the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import numpy as np
import pytest
from numpy.typing import ArrayLike

from celo_tasks.baselines import Setting
from celo_tasks.evaluation.store import Run, RunKey, summarize


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the full prepared data sets: $CELO_SHARED/data, else ../shared/data beside the repository."""
    root = os.environ.get("CELO_SHARED") or Path(__file__).resolve().parents[3].parent / "shared"
    folder = Path(root) / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the full data sets, and {folder} does not exist (set CELO_SHARED)")
    return folder


@pytest.fixture
def no_tfds_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Points tensorflow-datasets to an empty directory, so that a test does not see what this machine has."""
    folder = tmp_path / "tensorflow_datasets"
    folder.mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def make_run() -> Callable[..., Run]:
    """Makes the record of a training from its losses; what a test does not care about has a value."""

    def make(
        losses: ArrayLike,
        *,
        task: str = "small_mlp",
        optimizer: str = "adam",
        setting: str = "none",
        seed: int = 0,
        base: int | None = None,
        diverged: bool = False,
        seconds: float = 1.0,
        timing: str = "",
    ) -> Run:
        array = np.asarray(losses, np.float64)
        final, curve = summarize(array, base or len(array))
        return Run(
            key=RunKey(task, optimizer, Setting.parse(setting), seed, len(array)),
            dataset="none",
            task_identity=f"definition of {task}",
            optimizer_identity=f"definition of {optimizer}",
            parameters=10,
            final_loss=final,
            diverged=diverged,
            curve=curve,
            seconds=seconds,
            held_out={"loss": 2.0},
            machine="a machine",
            versions={"jax": "0"},
            timing=timing,
        )

    return make
