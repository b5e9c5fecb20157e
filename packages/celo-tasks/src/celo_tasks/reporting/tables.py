"""Tables, as Markdown that also reads well as plain text, or for a terminal."""

from collections.abc import Collection, Sequence

Row = Sequence[str]


def markdown(header: Row, rows: Sequence[Row], right: Collection[int] = ()) -> str:
    """A Markdown table with padded cells.

    Args:
      header: title of each column.
      rows: cells, as many as there are titles.
      right: indices of the columns that are set flush right, as numbers are.

    Raises:
      ValueError: a row has more or fewer cells than the header.
    """
    widths = _widths([header, *rows])
    rule = ["-" * (width - 1) + ":" if i in right else "-" * width for i, width in enumerate(widths)]
    lines = [_padded(header, widths, right), rule, *(_padded(row, widths, right) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(rows: Sequence[Row], right: Collection[int] = ()) -> str:
    """A table for a terminal: padded cells, two spaces between columns, and none at the ends of lines.

    Args:
      rows: cells, those of the header first.
      right: indices of the columns that are set flush right, as numbers are.

    Raises:
      ValueError: rows differ in their number of cells.
    """
    widths = _widths(rows)
    return "\n".join("  ".join(_padded(row, widths, right)).rstrip() for row in rows)


def _widths(rows: Sequence[Row]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _padded(row: Row, widths: Sequence[int], right: Collection[int]) -> list[str]:
    cells = enumerate(zip(row, widths, strict=True))
    return [cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in cells]
