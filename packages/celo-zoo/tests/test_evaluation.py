"""The record of an evaluation: the report's numbers, and nothing but what has its form."""

import copy
import hashlib
import json
import pathlib

import pytest

from celo_zoo import evaluation

REPORT = pathlib.Path(__file__).resolve().parents[3] / "docs" / "results" / "small-8" / "report.json"


def interval(value):
    return {"low": value - 0.1, "value": value, "high": value + 0.1}


def row(task, optimizer, **changes):
    return {
        "task": task,
        "optimizer": optimizer,
        "identity": f"{optimizer} of the test",
        "dataset": "digits_8x8",
        "parameters": 100,
        "setting": "none",
        "settings": 22 if optimizer == "adam" else 1,
        "final_loss_by_seed": [1.0, 2.0],
        "diverged": 0,
        "ratio_by_seed": [0.5, 1.0],
        "speedup_by_seed": [0.25, 0.5],
        "speedup_is_lower_bound": [False, False],
        "seconds_per_step": 0.1,
        **changes,
    }


def report():
    """Two tasks, one of them without tuned Adam."""
    scores = {"iqm": interval(0.75), "median": interval(0.7), "mean": interval(0.7), "optimality_gap": interval(0.25)}
    return {
        "suite": "tiny-2",
        "steps": 50,
        "runs": 6,
        "machines": ["a machine"],
        "versions": [{"python": "3.11", "jax": "0.10"}],
        "adam_from_package": [],
        "aggregates": [
            {
                "optimizer": "celo",
                "tasks": 1,
                "seeds": 2,
                "diverged": 1,
                "runs": 2,
                "lower_bound": True,
                "ratio": scores,
                "speedup": scores,
                "better_than_adam": None,
                "rank": 1.5,
            }
        ],
        "tasks": [
            row("one", "adam"),
            row("one", "celo", speedup_by_seed=[2.0, 4.0], speedup_is_lower_bound=[False, True], diverged=1),
            row("two", "celo", ratio_by_seed=None, speedup_by_seed=None, speedup_is_lower_bound=[]),
        ],
        "tuned_adam": {"one": {"setting": "1e-2 cosine", "final_loss": 0.75, "longest_run": 200}},
    }


def record():
    return evaluation.from_report(report())


def test_record_of_a_small_report():
    shared = {"dataset": "digits_8x8", "parameters": 100, "seeds": 2, "final_loss": 1.5}
    scores = {"iqm": interval(0.75), "optimality_gap": interval(0.25)}
    adam = {"setting": "1e-2 cosine", "final_loss": 0.75, "settings": 22}
    nothing = {"diverged": 0, "ratio": None, "speedup": None, "speedup_is_lower_bound": False, "adam": None}
    assert record() == {
        "suite": "tiny-2",
        "steps": 50,
        "machines": ["a machine"],
        "versions": [{"python": "3.11", "jax": "0.10"}],
        "optimizer": "celo",
        "identity": "celo of the test",
        "tasks": [
            {"task": "one", **shared}
            | {"diverged": 1, "ratio": 0.75, "speedup": 3.0, "speedup_is_lower_bound": True, "adam": adam},
            {"task": "two", **shared, **nothing},
        ],
        "aggregates": {"tasks": 1, "seeds": 2, "runs": 2, "diverged": 1, "speedup_is_lower_bound": True}
        | {"ratio": scores, "speedup": scores},
        "report_sha256": None,
    }


def test_record_of_the_projects_report():
    found = evaluation.from_report(REPORT)
    data = REPORT.read_bytes()
    assert found["report_sha256"] == hashlib.sha256(data).hexdigest()
    assert (found["suite"], found["steps"], len(found["tasks"])) == ("small-8", 1000, 8)
    for task in found["tasks"]:
        (source,) = [
            one for one in json.loads(data)["tasks"] if (one["optimizer"], one["task"]) == ("celo", task["task"])
        ]
        for key in ("final_loss", "ratio", "speedup"):
            seeds = source[f"{key}_by_seed"]
            assert task[key] == pytest.approx(sum(seeds) / len(seeds), rel=1e-5)  # six digits are kept
    (total,) = [one for one in json.loads(data)["aggregates"] if one["optimizer"] == "celo"]
    assert found["aggregates"]["ratio"]["iqm"] == total["ratio"]["iqm"]
    assert found["aggregates"]["speedup"]["optimality_gap"] == total["speedup"]["optimality_gap"]
    evaluation.check(json.loads(json.dumps(found)))


def test_optimizer_that_is_not_in_it():
    with pytest.raises(ValueError, match="no results of 'lion': choose from adam, celo."):
        evaluation.from_report(report(), "lion")


@pytest.mark.parametrize("content", [b"{", b"[]", b'"text"', b"{}", b"\xff", b"[" * 10**5])
def test_other_files_are_no_report(content, tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no report"):
        evaluation.from_report(path)
    with pytest.raises(FileNotFoundError):
        evaluation.from_report(tmp_path / "none.json")


def changed(document, path, value):
    document = copy.deepcopy(document)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("steps",), 50.0),
        (("suite",), 8),
        (("tasks",), []),
        (("tasks", 1, "ratio_by_seed"), [float("nan"), 1.0]),
        (("tasks", 1, "final_loss_by_seed"), []),
        (("tasks", 2, "task"), "one"),
        (("tasks", 1, "diverged"), 3),
        (("tasks", 1, "identity"), "two\nlines"),
        (("aggregates", 0, "ratio"), {}),
        (("tuned_adam", "one"), None),
        (("tuned_adam",), {}),
    ],
)
def test_unfit_reports(path, value):
    with pytest.raises(ValueError, match="the report is no report that `celo-tasks report` wrote: .*[.]$"):
        evaluation.from_report(changed(report(), path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("steps",), True),
        (("steps",), 0),
        (("steps",), 10**400),
        (("suite",), "x" * 201),
        (("suite",), "a\n# b"),
        (("suite",), ""),
        (("more",), 1),
        (("tasks", 0, "ratio"), float("inf")),
        (("tasks", 0, "ratio"), None),
        (("tasks", 0, "final_loss"), "1.5"),
        (("tasks", 0, "adam", "settings"), 0),
        (("tasks", 0), None),
        (("tasks", 1, "task"), "one"),
        (("aggregates", "speedup", "iqm", "low"), None),
        (("machines",), ["m"] * 65),
        (("versions",), [{"jax": 1}]),
        (("versions",), [{"j\nx": "1"}]),
        (("report_sha256",), "0" * 63),
    ],
)
def test_unfit_records(path, value):
    evaluation.check(record())
    with pytest.raises(ValueError, match=r"^[^\n]+ is not "):
        evaluation.check(changed(record(), path, value))


@pytest.mark.parametrize("value", [None, [], "text", 1, {}])
def test_what_is_no_record(value):
    with pytest.raises(ValueError, match="the evaluation is not an object"):
        evaluation.check(value)


def test_lists_of_records():
    evaluation.check_all([])
    evaluation.check_all([record(), record() | {"steps": 100}])
    with pytest.raises(ValueError, match="one record for each suite and number of steps"):
        evaluation.check_all([record(), record()])
    with pytest.raises(ValueError, match="0 to 8 entries"):
        evaluation.check_all([record() | {"steps": steps} for steps in range(1, 10)])
    with pytest.raises(ValueError, match="not a list"):
        evaluation.check_all({})
