"""Sessions of the workspace: ``nox -l`` lists them, plain ``nox`` runs what a change must pass.

Every package is tested in an environment of its own that holds that package and its declared dependencies alone.
"""

import os
import pathlib
import tomllib

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "pages", "types", "tests", "x64", "minimums", "wheel"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "uv|virtualenv"  # uv, if it is there, installs tensorflow in seconds
nox.options.error_on_external_run = True

ROOT = pathlib.Path(__file__).parent
PACKAGES = {"core": ["core"], "tasks": ["core", "tasks"], "zoo": ["core", "zoo"]}
"""Package -> itself and the siblings that it depends on, which are installed from here."""

PARALLEL = [
    "-n",
    "auto",
    "--maxprocesses",
    "4",
    "--dist",
    "loadfile",
    "--no-loadscope-reorder",
    "--max-worker-restart",
    "0",
]
"""Tests compile more than they compute, and a compilation uses one core. The files of fewest tests come last if they are reordered,
and some of these take longest, on one core. A new worker for one that crashed would wait for ever: pytest-xdist 3.8 gives it no
tests where they are kept together by file."""

LAZY = "--no-compile"
"""Of pip: bytecode is made of what is imported alone. Half of the time that tensorflow takes to be installed goes into it."""


def compiling_once(session: nox.Session, *, as_for_users: bool = False) -> dict[str, str]:
    """Environment of tests: what one test or process has compiled, the others take from a cache.

    XLA's older code for fusions compiles in two thirds of the time. The tests of the optimizers themselves have the present one,
    in celo-core and on the bundled weights, `as_for_users`.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / session.cache_dir / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        "XLA_FLAGS": flags if as_for_users else f"{flags} --xla_cpu_use_fusion_emitters=false",
    }


def folder(package: str) -> str:
    return f"packages/celo-{package}"


def install(session: nox.Session, package: str, *requirements: str) -> None:
    siblings = [f"./{folder(name)}" for name in PACKAGES[package][:-1]]
    session.install(LAZY, *siblings, f"./{folder(package)}[test]", *requirements)


def minimum(text: str) -> list[str]:
    """A requirement at its lowest declared version, or nothing for a sibling."""
    requirement = Requirement(text)
    if requirement.name.startswith("celo-"):
        return []
    lowest = [one.version for one in requirement.specifier if one.operator == ">="]
    if not lowest:
        raise ValueError(f"{text!r} has no lower bound: declare one that is tested.")
    return [f"{requirement.name}=={lowest[0]}"]


@nox.session
@nox.parametrize("package", list(PACKAGES), ids=list(PACKAGES))
def tests(session: nox.Session, package: str) -> None:
    """Tests of one package, alone: nox -s "tests(core)" -- -k pes."""
    install(session, package)
    environment = compiling_once(session, as_for_users=package != "tasks")
    session.run("pytest", "-q", *PARALLEL, f"{folder(package)}/tests", *session.posargs, env=environment)


WITH_X64 = (
    *("accumulators", "features", "options", "bad_input", "programs", "parity_numpy", "golden_reference", "scheduler"),
    *("adam_direction", "orthogonal", "zero_init_scale", "task_embedding", "estimators_pes", "meta_train"),
)
"""Tests of celo-core in which a dtype could depend on whether JAX has 64-bit numbers."""


@nox.session
def x64(session: nox.Session) -> None:
    """Tests of celo-core (but the slow ones) with JAX's 64-bit numbers enabled."""
    install(session, "core")
    files = [f"{folder('core')}/tests/test_{name}.py" for name in WITH_X64]
    environment = {**compiling_once(session), "JAX_ENABLE_X64": "1"}
    session.run("pytest", "-q", *PARALLEL, "-m", "not slow", *files, *session.posargs, env=environment)


@nox.session
@nox.parametrize("package", list(PACKAGES), ids=list(PACKAGES))
def minimums(session: nox.Session, package: str) -> None:
    """Tests of one package (but the slow ones) on the lowest versions of its dependencies that it declares."""
    declared = [
        tomllib.loads((ROOT / folder(name) / "pyproject.toml").read_text())["project"]["dependencies"]
        for name in PACKAGES[package]
    ]
    lowest: dict[str, str] = {}
    for requirement in [pin for one in declared for text in one for pin in minimum(text)]:
        name, version = requirement.split("==")
        # Where two packages declare different bounds, the higher one is the lowest that suits both.
        key = lambda v: [int(part) for part in v.split(".")]
        lowest[name] = max(lowest.get(name, version), version, key=key)
    install(session, package, *(f"{name}=={version}" for name, version in lowest.items()))
    tests = f"{folder(package)}/tests"
    session.run("pytest", "-q", *PARALLEL, "-m", "not slow", tests, *session.posargs, env=compiling_once(session))


@nox.session
def wheel(session: nox.Session) -> None:
    """Builds the three wheels, and proves that celo-core's pulls in no sibling, tensorflow, data sets or hub."""
    session.install("build")
    dist = pathlib.Path(session.create_tmp()) / "dist"
    for package in PACKAGES:
        session.run("python", "-m", "build", "--wheel", "--outdir", str(dist), folder(package), silent=True)
    session.run("python", "tools/check_wheels.py", str(dist))
    (core,) = dist.glob("celo_core-*.whl")
    session.install(str(core))
    session.run("python", "tools/check_wheels.py", "--alone")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, import rules, formatting, and names in docstrings: nox -s lint -- --fix mends what it can."""
    session.install("ruff>=0.9")
    fix = "--fix" in session.posargs
    for package in PACKAGES:
        session.run("ruff", "check", *session.posargs, folder(package))
    session.run("ruff", "check", *session.posargs, "noxfile.py", "tools")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")
    session.run("python", "tools/check_names.py")


@nox.session
def pages(session: nox.Session) -> None:
    """Tables in the README and in docs agree with docs/results."""
    session.install("numpy")
    session.run("python", "tools/pages.py", "--check", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Static types of the three packages."""
    session.install(LAZY, *(f"./{folder(package)}" for package in PACKAGES), "mypy>=1.14")
    for package in PACKAGES:
        session.run("mypy", f"{folder(package)}/src", *session.posargs)


@nox.session
def quickstart(session: nox.Session) -> None:
    """Trains networks with pretrained Celo, tuned Adam and AdamW: a table, and a plot of the curves."""
    session.install(*(f"./{folder(package)}" for package in PACKAGES))
    session.run("celo-tasks", "quickstart", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Time, compilation and memory of a step of Celo against Adam's, as JSON, Markdown and a plot (some ten minutes)."""
    session.install(*(f"./{folder(package)}" for package in PACKAGES))
    session.run("python", "tools/bench/run.py", *(session.posargs or ["--parts", "--out", "docs/results/performance"]))


@nox.session
def rliable(session: nox.Session) -> None:
    """Compares the evaluation's statistics with those of rliable, which does not import with pandas 3."""
    session.install(*(f"./{folder(name)}" for name in PACKAGES["tasks"]), "rliable>=1.2", "pandas<3")
    session.run("python", "tools/check_rliable.py", *session.posargs)
