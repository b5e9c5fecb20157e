"""Says which names between single backticks, in docstrings and comments of the packages, no longer exist.

    python tools/check_names.py

Single backticks are for the project's own names; for code and for other projects' names there are double ones.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

NAME = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)")


def names_in(source: str) -> set[str]:
    """Everything that a module defines, takes, imports or uses by name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.arg(arg=name) | ast.Name(id=name) | ast.Attribute(attr=name):
                found.add(name)
            case ast.keyword(arg=str(name)):
                found.add(name)
            case ast.alias(name=name, asname=other):
                found.update((other or name).split("."))
    return found


def main() -> int:
    """The command."""
    files = sorted(ROOT.glob("packages/*/src/**/*.py"))
    known = {part for file in files for part in file.relative_to(ROOT).with_suffix("").parts}
    known = known.union(*(names_in(file.read_text()) for file in files))
    stale = [
        f"{file.relative_to(ROOT)}:{number}: {name}"
        for file in files
        if file.name != "card_template.py"  # Markdown
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        for name in NAME.findall(line)
        if not known.issuperset(name.split("."))
    ]
    for one in stale:
        print(f"{one} is no name of the packages: mend it, or take two backticks.", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
