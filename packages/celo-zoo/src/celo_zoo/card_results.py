"""Records of evaluations (see `celo_zoo.evaluation`) in a model card: for the Hub's index, and as text."""

from collections.abc import Iterator, Mapping
from typing import Any

from celo_zoo import markdown

_METRICS = {"ratio": ("final_loss_ratio", "final-loss ratio"), "speedup": ("speedup", "speed-up")}
SCORES = """\
Final-loss ratio: tuned Adam's final training loss over this optimizer's, so above 1 is better. Speed-up: steps that tuned
Adam needs to this optimizer's final loss, over the steps taken; ">" where Adam did not get there, a lower bound. Means over
seeds; in brackets 95 % bootstrap intervals over seeds, which say nothing of other tasks."""


def results(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Arguments of huggingface_hub's EvalResult, which distinguishes results by data set, config and split."""
    where = f"{record['suite']}, {record['steps']} steps"
    shared = {"dataset_split": "train"}
    for task in record["tasks"]:
        data = {"dataset_type": task["dataset"], "dataset_name": task["dataset"], "task_name": task["task"], **shared}
        for score, (metric, title) in _METRICS.items():
            bound = {"lower_bound": True} if score == "speedup" and task["speedup_is_lower_bound"] else None
            named = {"metric_type": metric, "metric_name": title, "metric_value": task[score], "metric_args": bound}
            if task[score] is not None:
                yield {**data, **named, "dataset_config": f"{task['task']} of {where}"}
    data = {"dataset_type": record["suite"], "dataset_name": record["suite"], "dataset_config": where, **shared}
    for score, (metric, title) in _METRICS.items() if record["aggregates"] else ():
        for statistic, interval in record["aggregates"][score].items():
            args = {"interval_95": [interval["low"], interval["high"]]}
            named = {"metric_type": f"{metric}_{statistic}", "metric_name": f"{title}, {statistic.replace('_', ' ')}"}
            yield {**data, **named, "metric_value": interval["value"], "metric_args": args}


def section(record: Mapping[str, Any]) -> str:
    """An evaluation: a table and a summary."""
    rows = []
    for task in record["tasks"]:
        adam = task["adam"] or {"final_loss": None}
        losses = [
            markdown.figure(task["final_loss"]),
            markdown.figure(adam["final_loss"]),
            markdown.figure(task["ratio"]),
        ]
        speedup = ("> " if task["speedup_is_lower_bound"] else "") + markdown.figure(task["speedup"])
        counts = [f"{task['parameters']:,}", *losses, speedup, f"{task['diverged']} of {task['seeds']}"]
        rows.append([markdown.code(task["task"]), markdown.code(task["dataset"]), *counts])
    header = ["task", "data", "parameters", "final loss", "tuned Adam's", "ratio", "speed-up", "diverged seeds"]
    compared = [task for task in record["tasks"] if task["ratio"] is not None]
    better, worse = (sum(task["ratio"] > 1 for task in compared), sum(task["ratio"] < 1 for task in compared))
    slower = sum(task["speedup"] < 1 and not task["speedup_is_lower_bound"] for task in compared)
    text = [f"### {markdown.plain(record['suite'])}, {record['steps']:,} steps", markdown.table(header, rows)]
    text.append(
        "Nothing was compared with tuned Adam."
        if not compared
        else f"It ends better than tuned Adam (ratio above 1) on {better} of {len(compared)} tasks, and worse (below 1) on "
        f"{worse}.\nTuned Adam is the faster one (speed-up below 1) on {slower} of {len(compared)}."
    )
    if total := record["aggregates"]:
        span = lambda one: (
            f"{markdown.figure(one['value'])} [{markdown.figure(one['low'])}, {markdown.figure(one['high'])}]"
        )
        bound = "at least " if total["speedup_is_lower_bound"] else ""
        text[-1] += f" {total['diverged']} of {total['runs']} runs diverged."
        text.append(
            f"Over {total['tasks']} tasks and {total['seeds']} seeds: ratio {span(total['ratio']['iqm'])}, speed-up {bound}"
            f"{span(total['speedup']['iqm'])} (IQM);\noptimality gap {span(total['ratio']['optimality_gap'])} of the ratio, "
            f"{span(total['speedup']['optimality_gap'])} of the speed-up (lower is better)."
        )
    tried = sorted({task["adam"]["settings"] for task in compared if task["adam"]["settings"]})
    choice = f" of {tried[0] if len(tried) == 1 else f'{tried[0]} to {tried[-1]}'}" if tried else ""
    text.append(
        f"Tuned Adam is the best setting{choice} for each task, by final training loss. Evaluated were weights known as "
        f"{markdown.code(record['identity'])},\non {markdown.code(record['machines'])} with {markdown.code(record['versions'])}"
        + (f"; results file: SHA-256 `{record['report_sha256']}`." if record["report_sha256"] else ".")
    )
    return "\n\n".join(text)
