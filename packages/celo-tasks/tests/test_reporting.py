"""What all reports share: the writer of tables, the palette, and the description of the machine."""

import importlib.metadata
import itertools
import json
import re
import subprocess
import sys

import pytest

from celo_tasks.reporting import machine, palette, tables

HEADER = ("task", "loss")
ROWS = (("small_mlp", "1.5"), ("vae", "12.25"))


def test_markdown_is_padded_and_numbers_are_flush_right() -> None:
    assert tables.markdown(HEADER, ROWS, right=[1]).splitlines() == [
        "| task      |  loss |",
        "| --------- | ----: |",
        "| small_mlp |   1.5 |",
        "| vae       | 12.25 |",
    ]
    assert tables.markdown(HEADER, []).splitlines() == ["| task | loss |", "| ---- | ---- |"]


def test_a_terminals_table_has_no_blanks_at_the_ends_of_lines() -> None:
    assert tables.plain([HEADER, *ROWS], right=[1]).splitlines() == [
        "task        loss",
        "small_mlp    1.5",
        "vae        12.25",
    ]
    assert tables.plain([*ROWS, ("gru", "")]).splitlines()[-1] == "gru"


@pytest.mark.parametrize("row", [("gru",), ("gru", "1", "2")])
def test_a_row_of_another_length_is_refused(row: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="zip"):
        tables.markdown(HEADER, [*ROWS, row])
    with pytest.raises(ValueError, match="zip"):
        tables.plain([HEADER, *ROWS, row])


def test_colours_of_lines_are_told_apart() -> None:
    parts = lambda color: [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    assert len(set(palette.LINES)) == len(palette.LINES)
    for first, second in itertools.combinations((*palette.LINES, palette.BASELINE), 2):
        assert re.fullmatch("#[0-9A-F]{6}", first)
        assert sum(abs(a - b) for a, b in zip(parts(first), parts(second), strict=True)) > 60
    assert set(palette.RESERVED.values()) <= set(palette.LINES)


def test_the_machine_is_described_in_plain_values() -> None:
    assert re.fullmatch(r"\d+ (cores of|x) .+", machine.hardware())
    found = machine.versions()
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(found[name] == importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax"))


def test_tables_and_palette_wait_for_no_library() -> None:
    code = """
import sys, celo_tasks.reporting.tables, celo_tasks.reporting.palette
sys.exit(bool({"jax", "numpy", "matplotlib"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
