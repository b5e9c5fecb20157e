"""What the shipped optimizers do in the programs that users of Optax, Flax and Orbax write, against Optax's Adam and Muon.

Runs the whole conformance suite on each, on eight simulated devices and once more on one CPU device, and measures over which
range of the loss's scale updates stay the same. Writes compatibility.json, and the tables in docs/compatibility.md.

    python tools/compatibility.py --out docs/results/compatibility
    python tools/compatibility.py --out docs/results/compatibility --only celo   # one again, the others as they were
    python tools/compatibility.py --out docs/results/compatibility --missing     # checks that have no results yet

Takes some twenty minutes on two cores; what is done is kept if it is interrupted.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/compatibility.md"

NAMES = {
    "celo": '`celo_zoo.optimizer("celo")`',
    "celo_adam": '`celo_zoo.optimizer("celo_adam")`',
    "adam": "`optax.adam`",
    "muon": "`optax.contrib.muon`",
}

GROUPS = {
    "updates": "What goes in and what comes out",
    "edge_cases": "Unusual leaves, losses and starts",
    "transformations": "JAX's transformations",
    "layouts": "Several devices",
    "modes": "JAX's modes",
    "wrappers": "Optax's wrappers",
    "frameworks": "Other libraries",
    "robustness": "Bad input",
    "convergence": "Training",
}

SCALES = (1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6)


def factory(name: str) -> Any:
    """The optimizer ``name`` as the conformance suite wants it."""
    import jax
    import optax
    import optax.contrib

    import celo_zoo

    if name == "adam":
        return lambda num_steps: optax.with_extra_args_support(optax.adam(1e-2))
    if name == "muon":

        def muon(num_steps: Any, num_stacked_axes: Any = None) -> Any:
            numbers = None
            if num_stacked_axes is not None:
                # Of a stack of matrices the last two axes are the matrix; a stack of vectors is left to Adam.
                matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
                numbers = lambda params: jax.tree.map(lambda p: matrix if p.ndim == 3 else None, params)
            return optax.with_extra_args_support(optax.contrib.muon(1e-2, muon_weight_dimension_numbers=numbers))

        return muon
    return lambda num_steps, num_stacked_axes=None: celo_zoo.optimizer(
        name, num_steps, num_stacked_axes=num_stacked_axes
    )


def run_checks(name: str, known: Collection[str]) -> None:
    """Prints a JSON line for each check that can run here and is not ``known``, as it is done."""
    from celo_core.testing import CHECKS, Unavailable

    make = factory(name)
    for check in CHECKS:
        if check.__name__ in known:
            continue
        try:
            check(make)
            says = None
        except Unavailable:
            continue
        except Exception as error:
            says = re.sub(r"^check_\w+: ", "", " ".join(str(error).split()))[:300]
        print(json.dumps({"check": check.__name__, "fails": says}), flush=True)


def run_scales(name: str) -> None:
    """Prints how far the movement of 30 steps is off that at scale 1, relative to it, per scale of loss and gradients."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    random = np.random.default_rng(0)
    shapes = {"w": (64, 32), "b": (32,), "v": (32, 10)}
    params = {k: jnp.asarray(random.standard_normal(s) * (k != "b") / 8, jnp.float32) for k, s in shapes.items()}
    gradients = [{k: jnp.asarray(random.standard_normal(s), jnp.float32) for k, s in shapes.items()} for _ in range(30)]
    tx = factory(name)(40)
    update = jax.jit(lambda g, s, p, value: tx.update(g, s, p, value=value))

    def movement(scale: float) -> Any:
        p, state = params, tx.init(params)
        for i, gradient in enumerate(gradients):
            updates, state = update(
                jax.tree.map(lambda x: scale * x, gradient), state, p, jnp.float32(scale * (3.0 - i / 20))
            )
            p = optax.apply_updates(p, updates)
        return np.concatenate([np.ravel(p[k] - params[k]) for k in shapes])

    expected = movement(1.0)
    off = {f"{s:g}": float(np.linalg.norm(movement(s) - expected) / np.linalg.norm(expected)) for s in SCALES}
    print(json.dumps({"scales": off}), flush=True)


def measure(name: str, devices: int, known: dict[str, Any]) -> dict[str, Any]:
    """What is ``known`` of an optimizer on so many devices, and what a process with these prints."""
    flags = f"--xla_force_host_platform_device_count={devices}" if devices > 1 else ""
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    found: dict[str, Any] = {**known, "checks": dict(known.get("checks", {}))}
    scales = ["--scales"] if devices == 1 and "scales" not in found else []
    command = [sys.executable, __file__, "--inside", name, *scales, "--known", ",".join(found["checks"])]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            one = json.loads(line)
            if "scales" in one:
                found["scales"] = one["scales"]
            else:
                found["checks"][one["check"]] = one["fails"]
                print(f"{name}, {devices} device(s): {one['check']} {one['fails'] or 'passes'}", file=sys.stderr)
    if process.returncode:
        raise RuntimeError(f"the checks of {name} on {devices} device(s) ended with status {process.returncode}.")
    return found


def save(path: Path, results: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    temporary.replace(path)


def tables(results: dict[str, Any]) -> str:
    """The page's tables: a row per check, a column per optimizer, and notes on what fails."""
    from celo_core.testing import CHECKS

    notes: list[str] = []

    def cell(name: str, check: str) -> str:
        both = [results["optimizers"][name][where]["checks"] for where in ("devices_8", "devices_1")]
        says = [measured[check] for measured in both if check in measured]
        if not says:
            raise ValueError(f"there is no result of {check} for {name}: run this command with --missing.")
        failures = [one for one in says if one]
        if not failures:
            return "yes"
        if failures[0] not in notes:
            notes.append(failures[0])
        return f"no [{notes.index(failures[0]) + 1}]"

    lines: list[str] = []
    for module, title in GROUPS.items():
        lines += [f"### {title}", "", "| | " + " | ".join(NAMES.values()) + " |", "|---|" + "---|" * len(NAMES)]
        for check in CHECKS:
            if check.__module__.rsplit(".", 1)[1] == module:
                what = " ".join((check.__doc__ or "").split("\n\n")[0].split()).rstrip(".").replace("``", "`")
                lines.append(f"| {what} | " + " | ".join(cell(name, check.__name__) for name in NAMES) + " |")
        lines.append("")
    lines += ["What is said where the answer is no:", ""]
    lines += [f"{index}. {escape(note)}" for index, note in enumerate(notes, start=1)]
    return "\n".join(lines)


def escape(text: str) -> str:
    """Text as a page shows it: no markup of its own."""
    return re.sub(r"([<>*_`|\[\]])", r"\\\1", text)


def scale_table(results: dict[str, Any]) -> str:
    """How far movements are off, per scale and optimizer."""
    scales = list(next(iter(results["optimizers"].values()))["devices_1"]["scales"])
    lines = ["| loss and gradients times | " + " | ".join(scales) + " |", "|---|" + "---:|" * len(scales)]
    for name, title in NAMES.items():
        off = results["optimizers"][name]["devices_1"]["scales"]
        lines.append(f"| {title} | " + " | ".join(f"{100 * off[s]:.1f} %" for s in scales) + " |")
    return "\n".join(lines)


def write_page(results: dict[str, Any]) -> None:
    """Puts the tables between the marks in the page, once there are results of every optimizer."""
    if missing := [name for name in NAMES if name not in results["optimizers"]]:
        print(f"{PAGE} is written once {', '.join(missing)} are measured too.", file=sys.stderr)
        return
    text = PAGE.read_text()
    for mark, made in (("checks", tables(results)), ("scales", scale_table(results))):
        begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{PAGE} needs {begin} and {end} once: put them back.")
        text = f"{text.split(begin)[0]}{begin}\n{made}\n{end}{text.split(end)[1]}"
    PAGE.write_text(text)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/compatibility", help="folder of the results")
    parser.add_argument(
        "--only", choices=NAMES, help="measure this optimizer alone, and keep what is known of the others"
    )
    parser.add_argument("--missing", action="store_true", help="measure only what there are no results of")
    parser.add_argument("--page", action="store_true", help="write the page from the results that are there")
    parser.add_argument("--inside", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--scales", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--known", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        run_checks(options.inside, options.known.split(","))
        if options.scales:
            run_scales(options.inside)
        return 0
    path = options.out / "compatibility.json"
    results = json.loads(path.read_text()) if path.exists() else {"optimizers": {}}
    if not options.page:
        packages = ("jax", "optax", "flax", "orbax-checkpoint", "equinox", "numpy")
        results["versions"] = {name: importlib.metadata.version(name) for name in packages}
        results["machine"] = {"python": platform.python_version(), "cores": os.cpu_count()}
        for name in NAMES if options.only is None else [options.only]:
            known = results["optimizers"].get(name, {}) if options.missing else {}
            results["optimizers"][name] = {
                f"devices_{devices}": measure(name, devices, known.get(f"devices_{devices}", {})) for devices in (8, 1)
            }
            save(path, results)
    write_page(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
