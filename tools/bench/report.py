"""Tables and the plot of what run.py has measured."""

import io
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from celo_core import files

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLORS = {
    "adam": "#0072B2",
    "celo": "#D55E00",
    "celo, the paper's": "#E69F00",
    "celo_adam": "#009E73",
    "celo, in XLA": "#CC79A7",
    "celo, the paper's, in XLA": "#56B4E9",
}


def write(record: dict[str, Any], folder: Path) -> None:
    """Writes results.md, and time_against_size.png where sizes were measured."""
    files.write_bytes(folder / "results.md", (tables(record) + "\n").encode())
    if "sweep" in record:
        files.write_bytes(folder / "time_against_size.png", time_against_size(record))


def roofline_share(record: dict[str, Any], name: str, parameters: int, milliseconds: float) -> float | None:
    """Share of the memory bandwidth that a step would use if it moved the least number of bytes."""
    least = record["least_bytes_per_parameter"].get(name.removesuffix(", in XLA"))
    if least is None:
        return None
    return 1e3 * least * parameters / (1e9 * record["ceilings"]["gigabytes_per_second"]["median"]) / milliseconds


def counts(record: dict[str, Any]) -> list[str]:
    """Rows of what a step must move and compute, and the times that the machine's ceilings set for that."""
    ceilings, lines = record["ceilings"], []
    for name, least in record["least_bytes_per_parameter"].items():
        operations = record["operations_per_parameter"][name]
        memory = least / ceilings["gigabytes_per_second"]["median"]
        arithmetic = operations / ceilings["gigaflops"]["median"]
        lines.append(f"| {name} | {least} | {operations:.0f} | {memory:.2f} | {arithmetic:.2f} |")
    return lines


def tables(record: dict[str, Any]) -> str:
    """The results in Markdown."""
    spread = lambda x: f"{x['median']:.3g} [{x['low']:.3g}, {x['high']:.3g}]"
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    ceilings = record["ceilings"]
    lines = [
        f"{record['machine']}; {versions}. Medians of {record['rounds']} rounds, quartiles in brackets. The machine moves "
        f"{ceilings['gigabytes_per_second']['median']:.3g} GB/s (x + 0.5 y in place) and computes "
        f"{ceilings['gigaflops']['median']:.3g} Gflop/s (multiply-add in cache), both through XLA.",
        "",
        "| per parameter of a matrix | least bytes | elementwise operations | at the bandwidth, ns | at the arithmetic rate, ns |",
        "|---|---:|---:|---:|---:|",
        *counts(record),
        "",
        "| network | optimizer | ms a step | x Adam | trace and compile, s | temporary bytes a parameter "
        "| state bytes a parameter | share of the bandwidth |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for case in record["cases"].values():
        title = f"{case['title']}: {case['parameters']:,} in {case['leaves']} leaves"
        for name, one in case["step"].items():
            share = roofline_share(record, name, case["parameters"], one["milliseconds"]["median"])
            # What fits the caches is not bound by the memory's bandwidth.
            shown = f"{share:.2f}" if share is not None and case["parameters"] > 5_000_000 else ""
            lines.append(
                f"| {title} | {name} | {spread(one['milliseconds'])} | {spread(one['times_adam'])} "
                f"| {one['compile_seconds']:.2f} | {one['temporary_bytes_per_parameter']} "
                f"| {one['state_bytes_per_parameter']} | {shown} |"
            )
    for case in record["cases"].values():
        if "in_scan" in case:
            lines += ["", f"Inside `lax.scan`, {case['title']}, {case['parameters']:,} parameters:", ""]
            lines += ["| optimizer | microseconds a step | x Adam |", "|---|---:|---:|"]
            for name, one in case["in_scan"].items():
                lines.append(f"| {name} | {spread(one['microseconds'])} | {spread(one['times_adam'])} |")
    if "parts" in record:
        lines += [
            "",
            "The paper's Celo without one of the things that make it fast on a CPU:",
            "",
            "| | network | x Adam | trace and compile, s | temporary bytes a parameter |",
            "|---|---|---:|---:|---:|",
        ]
        for case in record["parts"].values():
            for kind in ("step", "in_scan"):
                for name, one in case.get(kind, {}).items():
                    title = case["title"] + (", inside `lax.scan`" if kind == "in_scan" else "")
                    more = [one.get("compile_seconds", ""), one.get("temporary_bytes_per_parameter", "")]
                    if name != "adam":
                        lines.append(f"| {name} | {title} | {spread(one['times_adam'])} | {more[0]} | {more[1]} |")
    return "\n".join(lines)


def time_against_size(record: dict[str, Any]) -> bytes:
    """PNG: time per step and its ratio to Adam's against the number of parameters of one square matrix."""
    figure = Figure(figsize=(10.4, 4.2), dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    sizes = sorted(int(size) for size in record["sweep"])
    names = list(record["sweep"][str(sizes[0])])
    for name in names:
        for axes, what in ((left, "milliseconds"), (right, "times_adam")):
            if axes is right and name == "adam":
                continue
            values = [record["sweep"][str(size)][name][what] for size in sizes]
            axes.plot(sizes, [v["median"] for v in values], color=COLORS[name], marker="o", markersize=4, label=name)
            low, high = [v["low"] for v in values], [v["high"] for v in values]
            axes.fill_between(sizes, low, high, color=COLORS[name], alpha=0.2, linewidth=0)
    bandwidth = record["ceilings"]["gigabytes_per_second"]["median"]
    large = [size for size in sizes if size >= 2**18]
    least = [
        1e3 * record["least_bytes_per_parameter"]["celo, the paper's"] * size / (1e9 * bandwidth) for size in large
    ]
    left.plot(
        large, least, color=COLORS["celo, the paper's"], linestyle=":", label="the paper's at the memory's bandwidth"
    )
    left.set_ylabel("milliseconds a step")
    right.set_ylabel("time over Adam's")
    right.axhline(1, color=COLORS["adam"], linewidth=1)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("parameters of one square matrix")
        axes.grid(True, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    figure.suptitle(f"One optimizer step, {record['machine']}, jax {record['versions']['jax']}", fontsize=11)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()
