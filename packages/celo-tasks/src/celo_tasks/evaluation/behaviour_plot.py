"""Plots of what `celo_tasks.evaluation.behaviour` has measured."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from celo_tasks.reporting.figures import Axes, Figure, tidy


def draw(result: Mapping[str, Any]) -> Figure:
    """Six panels: schedule, lengthened steps, inputs, disturbance, noise and scale.

    Args:
      result: what `celo_tasks.evaluation.behaviour.measure` returned.
    """
    figure = Figure(figsize=(13.5, 7.2), dpi=130, layout="constrained")
    schedule, lengthened, inputs, disturbance, noise, scale = figure.subplots(2, 3).ravel()
    share = lambda curve: np.linspace(0, 1, len(curve))
    floats = lambda curve: np.array(curve, float)  # None becomes NaN, where lines have gaps
    for axes, part, title, named in (
        (schedule, "schedule", "planned length", lambda length: f"{int(length):,} steps"),
        (lengthened, "lengthened", "every step is multiplied", "times {}".format),
        (inputs, "inputs", "scale of the inputs", "pixels of 0 to {}".format),
    ):
        for setting, run in result[part].items():
            axes.plot(share(run["multiplier"]), floats(run["multiplier"]), label=named(setting))
        _label(axes, title, "share of the training done", "multiplier", log=True)
    for count, curve in result["disturbance"]["relative_multiplier"].items():
        label = "to the end" if int(count) > result["steps"] else f"{count} step{'s' * (int(count) > 1)}"
        disturbance.plot(share(curve) * result["steps"], floats(curve), label=label)
    title = f"the loss told is {result['disturbance']['factor']:g} times the true one for"
    _label(disturbance, title, "step", "multiplier, of that undisturbed")
    for size, run in result["noise"].items():
        noise.plot(share(run["step_size"]) * result["steps"], floats(run["step_size"]), label=f"batch of {size}")
    _label(noise, "gradient noise", "step", "norm of the step, of that of the parameters", log=True)
    rate = result["scale"]["adam_learning_rate"]
    scale.plot(result["scale"]["scales"], floats(result["scale"]["celo"]), "o-", label=result["weights"].split("@")[0])
    scale.plot(result["scale"]["scales"], floats(result["scale"]["adam"]), "s--", label=f"Adam at {rate:.2g}")
    scale.set_xscale("log")
    _label(scale, "parameters and gradients scaled", "scale", "final training loss")
    return figure


def _label(axes: Axes, title: str, x: str, y: str, *, log: bool = False) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    if log:
        axes.set_yscale("log")
    axes.legend(frameon=False, fontsize="small")
    tidy(axes)
