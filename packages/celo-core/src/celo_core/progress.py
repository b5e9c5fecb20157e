"""Progress of long computations, on a terminal or in a log."""

import sys
import time
from typing import TextIO


def format_seconds(seconds: float) -> str:
    """``"1h02m"``, ``"3m20s"`` or ``"12s"``."""
    seconds = max(0, round(seconds))
    if seconds >= 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 60}m{seconds % 60:02d}s" if seconds >= 60 else f"{seconds}s"


class ProgressLine:
    """One line that is rewritten on a terminal, or printed anew every so often where output is not a terminal."""

    def __init__(self, stream: TextIO | None = None, interval: float = 30.0) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._interval = 0.2 if self._stream.isatty() else interval
        self._last = -float("inf")
        self._width = 0

    def show(self, text: str, *, last: bool = False) -> None:
        """Shows ``text`` if enough time has passed since the last line, or if it is the last one."""
        now = time.monotonic()
        if not last and now - self._last < self._interval:
            return
        self._last = now
        if self._stream.isatty():
            padding = " " * max(0, self._width - len(text))
            self._stream.write(f"\r{text}{padding}" + ("\n" if last else ""))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()
