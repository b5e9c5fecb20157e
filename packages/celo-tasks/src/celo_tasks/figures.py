"""What all pictures share."""

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


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
