"""Untrusted JSON values as escaped Markdown."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

MOST = 48
"""Maximum number of entries of an object, or of notes, that are shown."""


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def entries(value: Any) -> list[tuple[str, Any]]:
    """The first entries of an object."""
    return list(mapping(value).items())[:MOST]


def line(value: Any) -> str:
    """One line of at most 500 printable characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text[:2000]).split())
    return text if len(text) <= 500 else text[:499] + "…"


def code(value: Any) -> str:
    """Inline code, which no content can end early."""
    return f"`{line(value).replace('`', chr(39)) or '(empty)'}`"


def plain(value: Any) -> str:
    """Text in which nothing is markup."""
    text = re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", line(value))
    return re.sub(r"^(?:([-+=])|(\d+)(?=[.)]))", lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\", text)


def figure(value: Any) -> str:
    """A number with a few digits, ``-`` for none; anything else as code."""
    if value is None:
        return "-"
    if type(value) not in (int, float) or not abs(value) < 10**15:
        return code(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; bars in cells become broken ones."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '¦') for cell in line)} |" for line in lines)
