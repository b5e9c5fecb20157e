"""Longer runs of Adam, where an optimizer ends below all that Adam did: without them a speed-up is only a lower bound."""

from celo_tasks.baselines.tuning import SCHEDULES, Setting
from celo_tasks.evaluation.store import Store
from celo_tasks.evaluation.tuned_adam import best_trial, trials, tuned_adam


def settings_to_extend(store: Store, task: str, baseline: str, length: int) -> list[Setting]:
    """Settings at which the baseline is to be run for ``length`` steps; none if every optimizer's final loss was reached.

    For each schedule those are the best learning rate of the planned length and the next lower one, since longer
    trainings like smaller learning rates.
    """
    runs = [run for key, run in store.runs.items() if key.task == task and key.optimizer == baseline]
    tuned = tuned_adam([run for run in runs if run.key.steps < length], store.steps)
    if tuned is None:
        return []
    levels = [
        min(run.curve[-1] for run in best_trial(found).runs)
        for name in store.optimizers()
        if name != baseline and (found := trials(store.select(task, name)))
    ]
    if all(tuned.steps_to(level) is not None for level in levels):
        return []
    chosen: list[Setting] = []
    for schedule in SCHEDULES:
        found = [trial for trial in trials(store.select(task, baseline)) if trial.setting.schedule == schedule]
        if not found:
            continue
        rates = sorted(trial.setting.learning_rate or 0.0 for trial in found)
        place = rates.index(best_trial(found).setting.learning_rate or 0.0)
        chosen += [Setting(rate, schedule) for rate in rates[max(0, place - 1) : place + 1]]
    return chosen
