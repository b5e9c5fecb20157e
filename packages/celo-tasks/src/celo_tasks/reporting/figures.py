"""What all pictures share, and the only import of matplotlib: its Figures are drawn on a canvas in memory.

The backend, which ``MPLBACKEND`` or the user chooses, is pyplot's. No picture needs it, and none changes it.
"""

import importlib
import io
import os
import sys


def _import_matplotlib() -> None:
    """Imports matplotlib, whatever ``MPLBACKEND`` says.

    matplotlib cannot be imported where the variable names a backend that is not installed, as a notebook's does in a command
    that is run from it in another environment.
    """
    if "matplotlib" in sys.modules or not (backend := os.environ.pop("MPLBACKEND", None)):
        importlib.import_module("matplotlib")
        return
    try:
        matplotlib = importlib.import_module("matplotlib")
    finally:
        os.environ["MPLBACKEND"] = backend
    try:
        matplotlib.rcParams["backend"] = backend  # as matplotlib does itself
    except ValueError:
        return  # pyplot, if it is ever imported, falls back on one that works


_import_matplotlib()

from matplotlib import ticker as ticker  # noqa: E402
from matplotlib.axes import Axes as Axes  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure as Figure  # noqa: E402
from matplotlib.lines import Line2D as Line2D  # noqa: E402


def tidy(axes: Axes) -> None:
    """A faint grid, and no frame above and on the right."""
    axes.grid(True, which="major", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    canvas = FigureCanvasAgg(figure)  # draws without a display, and leaves pyplot's global state alone
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()
