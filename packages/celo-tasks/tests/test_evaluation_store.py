"""The store keeps what it was given, whatever happens to the process or the disk."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from celo_tasks.evaluation import curves
from celo_tasks.evaluation import store as store_module
from celo_tasks.evaluation.store import Run, Store, curve_steps, summarize

MakeRun = Callable[..., Run]


def create(folder: Path, steps: int = 40) -> Store:
    return Store.create(folder, "small-8", ["small_mlp"], steps)


def test_runs_come_back_as_they_were(tmp_path: Path, make_run: MakeRun) -> None:
    store = create(tmp_path / "store")
    runs = [make_run(np.linspace(2, 1, 40), setting=f"1e-{i} cosine", seed=i) for i in range(1, 4)]
    for run in runs:
        store.append(run)
    again = Store.read(tmp_path / "store")
    assert list(again.runs.values()) == runs
    assert again.steps == 40 and again.optimizers() == ["adam"]
    assert create(tmp_path / "store").runs == again.runs


def test_a_folder_with_a_suites_old_name_is_read_and_goes_on(tmp_path: Path, make_run: MakeRun) -> None:
    open_store = lambda: Store.create(tmp_path, "ood-17", ["vae_fashion_mnist"], 40)
    store = open_store()
    store.append(make_run(np.ones(40), task="vae_fashion_mnist"))
    path = tmp_path / "store.json"
    path.write_text(path.read_text().replace("ood-17", "velodrome-17"))
    assert Store.read(tmp_path).header["suite"] == "ood-17"
    assert open_store().runs == store.runs


def test_a_torn_last_line_is_dropped_and_no_other(tmp_path: Path, make_run: MakeRun) -> None:
    store = create(tmp_path)
    first, second, third = (make_run(np.ones(40), seed=seed) for seed in range(3))
    store.append(first)
    store.append(second)
    path = tmp_path / "runs.jsonl"
    path.write_bytes(path.read_bytes()[:-30])  # as a kill in the middle of a write leaves it
    assert list(Store.read(tmp_path).runs.values()) == [first]
    store = create(tmp_path)
    store.append(third)
    assert list(Store.read(tmp_path).runs.values()) == [first, third]


def test_a_damaged_line_is_named(tmp_path: Path, make_run: MakeRun) -> None:
    store = create(tmp_path)
    store.append(make_run(np.ones(40)))
    with open(tmp_path / "runs.jsonl", "a") as file:
        file.write('{"key": 3}\n')
    with pytest.raises(ValueError, match=r"line 2, is no run .*delete the line"):
        Store.read(tmp_path)


def test_a_full_disk_loses_only_the_run_that_did_not_fit(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create(tmp_path)
    first, second = make_run(np.ones(40)), make_run(np.ones(40), seed=1)
    store.append(first)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            store.append(second)
    assert list(store.runs) == [first.key]
    assert list(Store.read(tmp_path).runs.values()) == [first]
    store.append(second)
    assert list(Store.read(tmp_path).runs.values()) == [first, second]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    create(tmp_path)
    with pytest.raises(ValueError, match=r"results with steps 40, not 50: give another --out"):
        create(tmp_path, steps=50)
    with pytest.raises(ValueError, match=r"results with suite small-8, not custom"):
        Store.create(tmp_path, "custom", ["small_mlp"], 40)


def test_another_format_is_refused(tmp_path: Path) -> None:
    create(tmp_path)
    path = tmp_path / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(ValueError, match="written in format 2 and this celo-tasks reads 1"):
        Store.read(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        Store.read(tmp_path)


def test_folders_that_are_no_store_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no evaluation"):
        Store.read(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        create(tmp_path)
    with pytest.raises(ValueError, match="cannot be written"):
        create(tmp_path / "notes.txt" / "below")


def test_tasks_can_be_added(tmp_path: Path) -> None:
    create(tmp_path)
    Store.create(tmp_path, "small-8", ["small_vae"], 40)
    assert Store.read(tmp_path).header["tasks"] == ["small_mlp", "small_vae"]


@pytest.mark.parametrize("steps", [1, 20, 199, 200, 201, 1000, 1001])
def test_curve_steps_rise_to_the_last_step(steps: int) -> None:
    found = curve_steps(steps)
    assert found[-1] == steps and found[0] >= 1 and np.all(np.diff(found) > 0)
    assert len(found) == min(steps, 200)


def test_longer_runs_are_kept_as_finely() -> None:
    assert len(curve_steps(4000, base=1000)) == 800
    assert np.diff(curve_steps(4000, base=1000)).max() <= 6  # 5.006 on average, rounded


def test_summary_is_the_smoothed_curve_with_six_digits() -> None:
    losses = np.random.default_rng(0).uniform(0.5, 2.0, 1000).astype(np.float32)
    final, curve = summarize(losses, 1000)
    np.testing.assert_allclose(final, losses[-50:].astype(np.float64).mean(), rtol=1e-6)  # six digits, half a unit
    np.testing.assert_allclose(curve, curves.smooth(losses)[curve_steps(1000) - 1], rtol=5e-6)
