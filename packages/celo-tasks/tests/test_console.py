"""What the command costs before it does anything, its help, its hints, and pipes that nobody reads."""

import json
import os
import subprocess
import sys

import pytest

from celo_tasks.cli import console
from celo_tasks.cli.main import _parser, main

COMMANDS = (
    *("meta-train", "quickstart", "list", "evaluate", "report", "bench-meta", "prepare"),
    *("task-costs", "tuned-adam", "validate", "yardstick", "behaviour"),
)
PROGRAM = "import sys; from celo_tasks.cli.main import main; sys.exit(main())"
SLOW = ("jax", "celo_core", "matplotlib", "sklearn", "tensorflow_datasets", "flax", "optax", "scipy")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["meta-train", "--help"], 0),
        (["list"], 0),
        (["list", "--json"], 0),
        (["list", "--suite", "small"], 2),
        (["lst"], 2),
        (["meta-train"], 2),
        (["meta-train", "--out", "x", "--piars", "3"], 2),
        (["evaluate", "--seeds", "many"], 2),
    ],
)
def test_what_needs_no_jax_does_not_import_it(arguments, status, tmp_path):
    """In a process of its own, with and without data that tensorflow-datasets has prepared."""
    folder = tmp_path / "mnist" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": "array_record"}))
    script = f"""
import sys
from celo_tasks.cli.main import main
try:
    status = main({arguments!r})
except SystemExit as stop:
    status = stop.code
print(status, sorted(set({SLOW!r}) & set(sys.modules)), file=sys.stderr)
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TFDS_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr.splitlines()[-1] == f"{status} []"


def help_of(capsys, *command):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [60, 80, 300])
def test_help_is_at_most_a_hundred_characters_wide(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in ([], *([name] for name in COMMANDS)):
        lines = help_of(capsys, *command).splitlines()
        assert max(map(len, lines)) <= console.WIDTH
        # Examples, and what else stands as it was written, may be wider than a narrow terminal; nothing else may.
        filled = [line for line in lines if len(line) > columns and not line.startswith("  ")]
        assert not [line for line in filled if not line.startswith("usage:")]


def test_help_of_meta_train_is_in_groups(capsys):
    """No group is so long that it does not teach."""
    parts = help_of(capsys, "meta-train").split("\n\n")
    groups = [part for part in parts if (part.splitlines()[0].endswith(":") and "\n  --" in part) or "options:" in part]
    sizes = [sum(line.startswith(("  --", "  -h")) for line in group.splitlines()) for group in groups]
    assert len(groups) == 3 and max(sizes) <= 14 and sum(sizes) >= 18
    assert len(parts[0].splitlines()) == 1, "the usage is a line"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["meta-trian"], "there is no 'meta-trian', did you mean meta-train? (choose from meta-train, recipe,"),
        (["meta-train", "--out", "x", "--iteratons", "5"], "no option --iteratons, did you mean --iterations"),
        (["meta-train", "--out", "x", "--iteratons=5"], "no option --iteratons, did you mean --iterations"),
        (["meta-train", "--uot", "x"], "there is no option --uot, did you mean --out?"),
        (["evaluate", "-suite", "small-8"], "there is no option -suite, did you mean --suite?"),
        (["list", "--data_dir", "x"], "there is no option --data_dir, did you mean --data-dir?"),
        (["list", "--xyzzy"], "there is no option --xyzzy (`celo-tasks list --help` shows them all)"),
        (["--versoin"], "there is no option --versoin, did you mean --version?"),
        (["meta-train", "--out", "x", "--on-divergence", "roll"], "did you mean rollback?"),
        (["meta-train"], "the following arguments are required: --out"),
        (["meta-train", "--out", "x", "--seed", "-"], "invalid int value"),
    ],
)
def test_usage_errors_say_what_was_meant(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert max(map(len, error.splitlines()[:-1])) <= console.WIDTH, "the usage"


def test_what_is_no_mistake_is_read_as_ever():
    parse = _parser().parse_args
    assert parse(["meta-train", "--out", "x", "--iterat", "3"]).iterations == 3, "an abbreviation"
    assert parse(["bench-meta", "--seconds", "-1.5"]).seconds == -1.5
    assert parse(["bench-meta", "--pairs=-2"]).pairs == "-2"
    assert str(parse(["report", "--", "--folder"]).folder) == "--folder"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--suite", "smal-8"], "did you mean small-8"),
        (["quickstart", "--tasks", "mpl"], "did you mean mlp"),
        (["quickstart", "--optimizers", "adamm"], "did you mean adam"),
        (["evaluate", "--task", "small_mpl", "--optimizer", "sgd"], "did you mean small_mlp"),
        (["prepare", "mnist_8_8"], "did you mean mnist_8x8"),
    ],
)
def test_names_that_do_not_exist_are_guessed(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["--help"], ["meta-train", "--help"]])
@pytest.mark.parametrize("lines", [0, 1])
def test_a_reader_that_goes_away_is_no_error(arguments, lines):
    """As `| head -1`, and as `| true`, whose pipe is closed before anything is written."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    process.wait()
    errors = process.stderr.read()
    process.stderr.close()
    # What fits into the pipe may have been written before it was closed.
    assert process.returncode == console.PIPE_CLOSED or (lines and process.returncode == 0)
    assert "roken" not in errors and "Traceback" not in errors and "Exception" not in errors


def test_output_that_is_read_by_nobody_from_the_start():
    """A pipe whose reader is gone before the command begins: nothing of it may be a matter of time."""
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, "list"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert run.returncode == console.PIPE_CLOSED and "roken" not in run.stderr and "Traceback" not in run.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_output_that_cannot_be_written():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", PROGRAM, "list", "--json"]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 2
    assert [line for line in run.stderr.splitlines() if "No space left" in line] == run.stderr.splitlines()[-1:]
