"""Hints at what was meant by a name that does not exist."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """``", did you mean a or b?"`` without the question mark, or nothing where no known name is like ``name``.

    `celo_core.checks.nearest` does the same; importing it would import JAX, which what is asked here need not wait for.
    """
    similar = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f", did you mean {' or '.join(similar)}" if similar else ""
