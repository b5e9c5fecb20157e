"""Pictures, whatever backend MPLBACKEND names: a command that is run from a notebook gets the notebook's."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

import celo_tasks

DRAW = """
import os
from celo_tasks.reporting.figures import Figure, png
figure = Figure()
figure.subplots().plot([1, 2])
assert png(figure).startswith(b"\\x89PNG")
import sys, matplotlib
assert "matplotlib.pyplot" not in sys.modules
print(os.environ["MPLBACKEND"], dict.__getitem__(matplotlib.rcParams, "backend"), sep="\\n")
"""


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "no_such_backend", "svg"])
def test_pictures_do_not_need_the_backend_that_the_environment_names(backend: str) -> None:
    environment = {**os.environ, "MPLBACKEND": backend}
    run = subprocess.run([sys.executable, "-c", DRAW], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    seen, chosen = run.stdout.splitlines()
    assert seen == backend, "programs that this one starts get it as it was"
    # What matplotlib itself makes of the variable, where it accepts it.
    alone = "import matplotlib; print(dict.__getitem__(matplotlib.rcParams, 'backend'))"
    found = subprocess.run([sys.executable, "-c", alone], env=environment, capture_output=True, text=True, check=False)
    assert found.returncode != 0 or found.stdout.strip() == chosen


def test_drawing_leaves_the_users_backend() -> None:
    script = f"import matplotlib\nmatplotlib.use('pdf')\n{DRAW}\nassert matplotlib.get_backend() == 'pdf'"
    environment = {**os.environ, "MPLBACKEND": "svg"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)


def test_matplotlib_is_imported_in_one_place() -> None:
    folder = pathlib.Path(str(celo_tasks.__file__)).parent
    importing = [
        path.name
        for path in folder.rglob("*.py")
        if re.search(r"^\s*(from|import) matplotlib|pyplot", path.read_text(), re.MULTILINE)
    ]
    assert importing == ["figures.py"]
