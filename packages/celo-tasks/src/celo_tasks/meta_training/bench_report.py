"""The record of `celo_tasks.meta_training.bench.measure` as a table and as a plot."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from celo_tasks.meta_training.bench import TITLES
from celo_tasks.reporting import palette, tables
from celo_tasks.reporting.figures import Axes, Figure, png, ticker


def table(record: Mapping[str, Any]) -> str:
    """The record of `measure` for people."""
    settings = record["settings"]
    lines = [
        f"{record['machine']}, {settings['devices']} JAX device(s); "
        f"{', '.join(f'{name} {version}' for name, version in record['versions'].items())}",
        f"{', '.join(settings['datasets'])}; {settings['truncation']} inner steps per meta-iteration; "
        f"medians of {settings['repeats']}",
        "",
    ]
    title = ["", "pairs", "devices", "inner steps/s", "smallest-largest", "of Adam's", "ms/meta-it.", "first call, s"]
    rows = [(*title, "temporary MB", "state kB/pair")]
    for case in record["cases"]:
        temporary = case["temporary_bytes_per_device"]
        rows.append(
            (
                TITLES[case["name"]],
                str(case["pairs"]),
                str(case["devices"]),
                f"{case['inner_steps_per_second']:,.0f}",
                f"{case['smallest']:,.0f}-{case['largest']:,.0f}",
                f"{case['rate_over_adam']:.3f}",
                f"{case['milliseconds_per_meta_iteration']:.4g}",
                f"{case['first_call_seconds']:.1f}",
                "-" if temporary is None else f"{temporary / 1e6:.1f}",
                f"{case['state_bytes_per_pair'] / 1e3:.1f}",
            )
        )
    lines.append(tables.plain(rows, right=range(1, len(rows[0]))))
    lines += [
        "",
        f"At {settings['default_pairs']} pairs the update rule takes "
        f"{100 * record['share_of_time_in_update_rule']:.0f} % of the time, and all else, inner gradients above all, "
        f"{100 * record['share_of_time_in_inner_gradients']:.0f} %.",
    ]
    return "\n".join(lines)


_LINES = {
    "adam": palette.BLUE,
    "update_rule": palette.VERMILION,
    "gradient_descent": palette.GREEN,
    "scheduler": palette.ORANGE,
}


def draw(record: Mapping[str, Any]) -> bytes:
    """Draws rates against the number of pairs, logarithmic both, from the record of `measure`; returns the PNG."""
    figure = Figure(figsize=(6.4, 4.6), dpi=130, layout="constrained")
    axes: Axes = figure.subplots()
    for name, color in _LINES.items():
        cases = [case for case in record["cases"] if case["name"] == name]
        pairs, rate = [case["pairs"] for case in cases], np.array([case["inner_steps_per_second"] for case in cases])
        spread = [
            rate - np.array([case["smallest"] for case in cases]),
            np.array([case["largest"] for case in cases]) - rate,
        ]
        axes.errorbar(pairs, rate, np.abs(spread), color=color, marker="o", markersize=5, capsize=3, label=TITLES[name])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(record["settings"]["pairs"])
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("antithetic pairs (two networks each)")
    axes.set_ylabel("inner steps per second")
    axes.set_title(f"Meta-training on {record['machine']} (bars: smallest and largest)", fontsize=10)
    axes.grid(True, which="major", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return png(figure)
