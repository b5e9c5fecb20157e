"""The command ``celo-zoo``."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from celo_zoo import __version__

_EXAMPLES = """\
examples:
  celo-zoo list                                   # the weights inside the package
  celo-zoo show celo                              # what is known about them
  celo-zoo verify owner/repo@COMMIT               # fetch from the Hugging Face Hub, and check every byte
  celo-zoo convert theta.state --out my-celo      # the authors' published file as a folder

A private repository is read with the login that `hf auth login` saved, or the one in HF_TOKEN.
"""

_REF = "a bundled name, a folder, or owner/repo[@revision] on the Hugging Face Hub"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 2 for wrong or unreadable input, 130 if interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"celo-zoo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    form: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(
        prog="celo-zoo", description="Meta-trained weights for Celo's learned optimizers.", epilog=_EXAMPLES, **form
    )
    parser.add_argument("--version", action="version", version=f"celo-zoo {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    listing = commands.add_parser("list", help="the weights inside the package")
    listing.add_argument("--json", action="store_true", help="as a JSON list")
    listing.set_defaults(run=_list)

    show = commands.add_parser("show", help="architecture, config and provenance of weights")
    _add_source(show)
    show.add_argument("--json", action="store_true", help="as a JSON object")
    show.set_defaults(run=_show)

    verify = commands.add_parser(
        "verify",
        help="check weights",
        description="Check every file's SHA-256, then that the weights fit their config and are finite.",
    )
    _add_source(verify)
    verify.set_defaults(run=_verify)

    convert = commands.add_parser(
        "convert",
        help="turn the authors' published file into a folder",
        description="Turn a file that the authors of Celo published (flax msgpack) into a folder that this package\n"
        "loads. What influences nothing in it is left out, and named on standard error.",
        **form,
    )
    convert.add_argument("path", metavar="PATH", help="the published file")
    convert.add_argument("--architecture", choices=("celo", "celo_adam"), default="celo", help="what it holds (celo)")
    convert.add_argument("--out", required=True, metavar="FOLDER", help="folder to write")
    convert.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    convert.set_defaults(run=_convert)
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ref", metavar="REF", help=_REF)
    parser.add_argument("--revision", metavar="R", help="commit, tag or branch on the Hub (main)")
    parser.add_argument("--cache-dir", metavar="FOLDER", help="cache of the Hub's client")
    parser.add_argument("--endpoint", metavar="URL", help="address of another Hub; no login is sent there")
    parser.add_argument("--offline", action="store_true", help="make no request")


def _load(options: argparse.Namespace) -> Any:
    from celo_zoo import models

    source = models.Source(
        revision=options.revision,
        cache_dir=options.cache_dir,
        endpoint=options.endpoint,
        local_files_only=options.offline,
    )
    return models.load_model(options.ref, source)


def _list(options: argparse.Namespace) -> None:
    from celo_zoo import bundled, models

    rows = []
    for name in bundled.names():
        model = models.load_model(name)
        rows.append(
            {"name": name, "architecture": model.architecture.name, "values": _count(model), "checksum": model.checksum}
        )
    if options.json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        print("no weights are bundled with this version", file=sys.stderr)
    for row in [] if options.json else rows:
        print(f"{row['name']}  {row['architecture']}, {row['values']:,} values")


def _count(model: Any) -> int:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(model.theta))


def _show(options: argparse.Namespace) -> None:
    model = _load(options)
    if options.json:
        print(json.dumps({**model.document, "source": model.source, "checksum": model.checksum}, indent=2))
        return
    print(f"source: {model.source}")
    print(f"checksum: {model.checksum}")
    print(f"architecture: {model.architecture.name}, {_count(model):,} values")
    for title in ("config", "provenance"):
        print(f"{title}:" if model.document[title] else f"{title}: nothing recorded")
        for key, value in model.document[title].items():
            print(f"  {key}: {value if isinstance(value, str) else json.dumps(value)}")


def _verify(options: argparse.Namespace) -> None:
    model = _load(options)
    print(f"{model.source}: all files as in checksums (SHA-256 {model.checksum}), {_count(model):,} finite values")


def _convert(options: argparse.Namespace) -> None:
    from celo_zoo import models, published

    theta, config = published.convert_published(options.path, options.architecture)
    metadata = published.published_metadata(options.path, options.architecture)
    folder = models.save(theta, config, options.out, metadata=metadata, overwrite=options.overwrite)
    print(f"left out, as it influences nothing: {', '.join(published.DROPPED[options.architecture])}", file=sys.stderr)
    print(folder)
