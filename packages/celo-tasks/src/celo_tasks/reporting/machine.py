"""What computed a result: this machine, and the versions of the libraries."""

import os
import pathlib
import platform

import flax
import jax
import jaxlib
import optax

from celo_tasks import __version__


def hardware() -> str:
    """The machine that computes, e.g. ``"1 x NVIDIA H100"`` or ``"2 cores of AMD EPYC"``."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    kind = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        kind = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), kind)
    return f"{os.cpu_count()} cores of {kind}"


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that compute, by name."""
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "celo-tasks": __version__,
    }
