"""Scores against tuned Adam, on runs that are made up so that the right numbers are known."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from celo_tasks.baselines import Setting
from celo_tasks.evaluation import reference, report, report_text
from celo_tasks.evaluation.aggregates import aggregate
from celo_tasks.evaluation.extension import settings_to_extend
from celo_tasks.evaluation.scores import scores
from celo_tasks.evaluation.store import Run, Store
from celo_tasks.evaluation.tuned_adam import TunedAdam, tuned_adam

MakeRun = Callable[..., Run]
STEPS = 400
LOSS = np.full(STEPS, 1.0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(reference, "load", lambda suite: {"steps": None, "tasks": {}})
    return Store.create(tmp_path / "store", "small-8", ["small_mlp", "small_vae"], STEPS)


def falling(last: float, steps: int = STEPS) -> np.ndarray:
    """From 2 down to ``last``, in a straight line: a smoothed curve lags, but reaches every level on its way."""
    return np.linspace(2.0, last, steps)


def test_constant_losses_give_exact_ratios_and_the_best_setting(store: Store, make_run: MakeRun) -> None:
    for setting, loss in (("1e-3 constant", 0.9), ("1e-2 constant", 0.6), ("1e-1 constant", 0.8)):
        for seed in range(2):
            store.append(make_run(loss * LOSS, setting=setting, seed=seed))
    store.append(make_run(0.3 * LOSS, optimizer="new", seed=0))
    store.append(make_run(1.2 * LOSS, optimizer="new", seed=1))
    found = scores(store)
    assert found.adam["small_mlp"].setting == Setting(1e-2, "constant")
    new = found.by_name["new", "small_mlp"]
    np.testing.assert_allclose(new.ratio, [2.0, 0.5], rtol=1e-5)  # losses are kept with six digits
    assert new.lower_bound == (True, False) and new.speedup == (1.0, 1 / STEPS)
    adam = found.by_name["adam", "small_mlp"]
    assert not adam.at_edge and adam.settings == 3
    np.testing.assert_allclose(adam.ratio, [1.0, 1.0], rtol=1e-5)
    assert found.complete_tasks() == ("small_mlp",)


def test_speedup_of_a_curve_that_adam_reaches_halfway(store: Store, make_run: MakeRun) -> None:
    store.append(make_run(falling(1.0), setting="1e-3 constant"))
    half = np.concatenate([falling(1.0)[: STEPS // 2], np.full(STEPS // 2, falling(1.0)[STEPS // 2 - 1])])
    store.append(make_run(half, optimizer="new"))
    (factor,) = scores(store).by_name["new", "small_mlp"].speedup or ()
    # Smoothing lags by 1 / (1 - 0.95) = 20 steps less one on a line: Adam is there 19 steps after half its steps.
    assert factor == pytest.approx(0.5 + 19 / STEPS, abs=3 / STEPS)  # points are kept every second step


def test_longer_runs_take_the_cap_off(store: Store, make_run: MakeRun) -> None:
    store.append(make_run(falling(1.0), setting="1e-3 constant"))
    store.append(make_run(0.7 * LOSS, optimizer="new"))
    assert scores(store).by_name["new", "small_mlp"].lower_bound == (True,)
    wanted = settings_to_extend(store, "small_mlp", "adam", 2 * STEPS)
    assert [str(one) for one in wanted] == ["1e-3 constant"]
    store.append(make_run(falling(0.0, 2 * STEPS), setting="1e-3 constant", base=STEPS))
    new = scores(store).by_name["new", "small_mlp"]
    assert new.lower_bound == (False,)
    assert new.speedup is not None
    assert new.speedup[0] == pytest.approx((2 - 0.7) / (2 - 0.0) * 2 + 19 / STEPS, abs=5 / STEPS)
    assert settings_to_extend(store, "small_mlp", "adam", 4 * STEPS) == []


def test_extension_takes_the_best_rate_and_the_next_lower_of_each_schedule(store: Store, make_run: MakeRun) -> None:
    for rate, loss in (("1e-4", 0.9), ("1e-3", 0.8), ("1e-2", 0.7), ("1e-1", 0.95)):
        store.append(make_run(loss * LOSS, setting=f"{rate} constant"))
        store.append(make_run((1.7 - loss) * LOSS, setting=f"{rate} cosine"))
    store.append(make_run(0.1 * LOSS, optimizer="new"))
    wanted = {str(one) for one in settings_to_extend(store, "small_mlp", "adam", 2 * STEPS)}
    assert wanted == {"1e-3 constant", "1e-2 constant", "1e-2 cosine", "1e-1 cosine"}


def test_envelope_is_monotone_and_below_every_trial(make_run: MakeRun) -> None:
    rng = np.random.default_rng(1)
    runs = [
        make_run(rng.uniform(0.1, 2, STEPS), setting=f"1e-{i} constant", seed=seed)
        for i in range(3)
        for seed in range(2)
    ]
    tuned = tuned_adam(runs, STEPS)
    assert tuned is not None
    assert np.all(np.diff(tuned.envelope) <= 0)
    for i in range(3):
        mean = np.mean([runs[2 * i].smoothed, runs[2 * i + 1].smoothed], axis=0)
        assert np.all(tuned.envelope <= mean)
    again = TunedAdam.from_json(tuned.to_json())
    np.testing.assert_allclose(again.envelope, tuned.envelope, rtol=5e-6)  # six digits
    assert again.setting == tuned.setting and again.horizon == STEPS


def test_adam_of_the_package_serves_the_same_task_only(
    store: Store, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = tuned_adam([make_run(0.6 * LOSS, setting="1e-3 constant")], STEPS)
    assert tuned is not None
    entry = {"identity": "definition of small_mlp", **tuned.to_json()}
    for known, there in ((entry, True), ({**entry, "identity": "another"}, False)):
        packaged = {"steps": STEPS, "tasks": {"small_mlp": known}}
        monkeypatch.setattr(reference, "load", lambda suite, packaged=packaged: packaged)
        if not store.runs:
            store.append(make_run(0.3 * LOSS, optimizer="new"))
        found = scores(store)
        assert found.adam_from_package == (("small_mlp",) if there else ())
        assert (found.by_name["new", "small_mlp"].ratio is not None) == there


def test_diverged_runs_count(store: Store, make_run: MakeRun) -> None:
    store.append(make_run(LOSS, setting="1e-3 constant"))
    store.append(make_run(3 * LOSS, optimizer="new", diverged=True))
    (row,) = [row for row in aggregate(scores(store)) if row.optimizer == "new"]
    assert row.diverged == 1 and row.runs == 1
    assert row.ratio["mean"].value == pytest.approx(1 / 3)


def test_report_files_say_what_the_store_holds(store: Store, make_run: MakeRun, tmp_path: Path) -> None:
    for task in ("small_mlp", "small_vae"):
        for seed in range(3):
            store.append(make_run((1 + 0.01 * seed) * LOSS, task=task, setting="1e-3 constant", seed=seed))
            store.append(make_run((0.5 + 0.01 * seed) * LOSS, task=task, optimizer="new", seed=seed))
    store.append(make_run(LOSS, optimizer="half"))  # on one task of two
    text = report.write(Store.read(store.folder), tmp_path / "report")
    assert "aggregated over fewer: half." in text
    row = next(line for line in text.splitlines() if line.startswith("| new "))
    # IQM of 1.01 / (0.50, 0.51, 0.52), each twice: the one lowest and the one highest of the six are left out.
    assert row.split("|")[2].strip().startswith(f"{np.mean([1.01 / 0.5, 1.01 / 0.51, 1.01 / 0.51, 1.01 / 0.52]):.2f} [")
    assert "> 1.00" in row and "2 x 3" in row
    for name in ("curves.png", "intervals.png", "profiles.png"):
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in (tmp_path / "report" / "report.md").read_text()
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {row["optimizer"]: row["tasks"] for row in numbers["aggregates"]} == {"new": 2, "adam": 2, "half": 1}


def test_an_empty_store_has_no_report(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no finished run yet"):
        report.write(store, tmp_path)


def test_times_are_compared_where_trainings_advanced_in_turn(store: Store, make_run: MakeRun) -> None:
    for seed in range(2):
        turn = {"seed": seed, "timing": f"turn {seed}"}
        store.append(make_run(LOSS, setting="1e-3 constant", seconds=2.0, **turn))
        store.append(make_run(2 * LOSS, setting="1e-2 constant", seconds=9.0, **turn))  # not the best
        store.append(make_run(0.5 * LOSS, optimizer="new", seconds=3.0 + 2 * seed, **turn))
        store.append(make_run(0.5 * LOSS, optimizer="later", seconds=1.0, seed=seed, timing="another turn"))
        store.append(make_run(0.5 * LOSS, optimizer="alone", seconds=1.0, seed=seed))
    found = scores(store)
    ratios = {name: found.by_name[name, "small_mlp"].time_over_adam for name in found.optimizers}
    assert ratios == {"adam": 1.0, "new": 2.0, "later": None, "alone": None}
    table = report_text.task_table(found, aggregate(found))
    rows = {line.split("|")[2].strip(): line.split("|")[-2].strip() for line in table.splitlines()}
    assert rows["optimizer"] == "time x Adam" and (rows["new"], rows["later"]) == ("2.00", "-")


def test_the_table_has_no_column_for_times_that_nothing_was_compared_with(store: Store, make_run: MakeRun) -> None:
    store.append(make_run(LOSS, setting="1e-3 constant"))
    assert "time x Adam" not in report_text.task_table(scores(store), [])


def test_speedups_in_words(store: Store, make_run: MakeRun) -> None:
    store.append(make_run(falling(1.0), setting="1e-3 constant"))
    store.append(make_run(falling(0.5), optimizer="faster"))
    store.append(make_run(falling(1.5), optimizer="slower"))
    faster, slower = report_text.sentences(scores(store))
    assert faster.startswith("small_mlp: faster ends at training loss 0.5")
    assert "tuned Adam does not get there in 400: speed-up > 1.00" in faster
    # Adam's final loss, a mean of its last steps, is about 1; the smoothed loss lags by 19 steps.
    reached = int(faster.split("Adam's final loss after ")[1].split(")")[0])
    assert reached == pytest.approx(STEPS * 2 / 3 + 19, abs=15)
    needed = int(slower.split("tuned Adam is there after ")[1].split(":")[0])
    # Both lag by 19 steps, the slower one on a line half as steep.
    assert needed == pytest.approx(STEPS / 2 + 19 / 2, abs=3)
    assert float(slower.split("speed-up ")[1].rstrip(".")) == pytest.approx(needed / STEPS, abs=0.01)
