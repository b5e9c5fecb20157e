"""The command ``celo-zoo``."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from celo_zoo import __version__, cli_common
from celo_zoo.cli_common import say
from celo_zoo.errors import RefError, ZooError

_EXAMPLES = """\
examples:
  celo-zoo list                                     # names of weights in this version
  celo-zoo show celo                                # what is known about it
  celo-zoo verify owner/repo@COMMIT@sha256:DIGEST   # fetch from the Hub, and check every byte
  celo-zoo fetch owner/repo@v1 --out weights/theirs # a copy of your own
  celo-zoo publish runs/mine owner/repo --dry-run   # what a publication would commit
  celo-zoo convert theta.state --out weights/theirs # the authors' file as a folder of weights

Every command takes --json. Results go to standard output, progress and errors to standard error.
Exit status: 0, 2 for what could not be done (one sentence says why), 130 if interrupted, 141 if the
reader of the output is gone.
"""

_REF = """\
REF is one of
  celo                         a name that `celo-zoo list` shows
  path/to/folder               a folder of weights
  owner/repo[@revision]        a repository on the Hugging Face Hub; a commit as revision always
                               means the same weights
and may end in @sha256:DIGEST, which is compared before anything is read.

A private repository is read with the login that `hf auth login` saved, or the one in HF_TOKEN.
HF_HOME moves the cache, and HF_HUB_OFFLINE=1 makes no request."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
      arguments: of the command; ``None`` for those of the process.

    Returns:
      0, 2 for what could not be done, 130 if interrupted, 141 if the reader of the output is gone.
    """
    return cli_common.run(lambda: _main(arguments), "celo-zoo")


def _main(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    # The client reads its environment when it is imported, and only its own Hub has Xet storage.
    if getattr(options, "endpoint", None):
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    try:
        result = options.run(options)
        if options.json:
            say(json.dumps(result, indent=2))
    except BrokenPipeError:
        raise
    except (ZooError, ValueError, OSError) as error:
        print(f"celo-zoo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("celo-zoo: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = cli_common.Parser(
        prog="celo-zoo",
        description="Meta-trained weights for Celo's learned optimizers: inspect, fetch, verify, publish.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"celo-zoo {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Any, summary: str, description: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=description)
        added.add_argument("--json", action="store_true", help="print the result as JSON")
        added.set_defaults(run=run)
        return added

    command(
        "list",
        _list,
        "the optimizers that this version has by name",
        "The optimizers that this version of the package has by name, each with its architecture,\n"
        "its digest, and its location: in the package, or on the Hub.",
    )

    show = command("show", _show, "what is known about weights", f"Architecture, config, origin and results.\n\n{_REF}")
    _add_source(show)

    fetch = command(
        "fetch",
        _fetch,
        "get weights, checked",
        "Download weights unless they are in the cache, check them, and print their folder. With --out,\n"
        f"copy them there.\n\n{_REF}",
    )
    _add_source(fetch)
    fetch.add_argument("--out", metavar="FOLDER", help="copy them to this folder")
    fetch.add_argument("--overwrite", action="store_true", help="replace the folder if it holds weights")

    verify = command(
        "verify",
        _verify,
        "check weights",
        "Check every file's SHA-256, then that the weights fit their config and are finite. What is\n"
        "printed last can be given to any command, or to celo_zoo.load, to get these very bytes or an\n"
        f"error.\n\n{_REF}",
    )
    _add_source(verify)

    publish = command(
        "publish",
        _publish,
        "put weights on the Hugging Face Hub",
        "Publish weights with a model card: one commit with everything, or nothing. The repository is\n"
        "made if need be, the commit is verified by downloading it anew, and then tagged. If something\n"
        "fails, run the same command again.",
    )
    publish.add_argument("weights", metavar="WEIGHTS", help="folder of weights or of a finished celo-tasks meta-train")
    publish.add_argument("repository", metavar="OWNER/REPO", help="where to")
    publish.add_argument("--dry-run", action="store_true", help="send nothing, show what would be committed")
    publish.add_argument("--tag", default="auto", metavar="T", help="name of this version (the next of v1, v2, ...)")
    publish.add_argument("--private", action="store_true", help="if the repository must be made, make a private one")
    publish.add_argument("--message", metavar="TEXT", help="of the commit")
    _add_record(publish)
    publish.add_argument("--card", metavar="FILE", help="a model card of your own")
    _add_hub(publish)

    convert = command(
        "convert",
        _convert,
        "turn other files into a folder of weights",
        "Turn a file that the authors of Celo published (flax msgpack), or the folder of a finished\n"
        "celo-tasks meta-train, into a folder of weights. Unused parameters of a published file are left\n"
        "out, and named on standard error.",
    )
    convert.add_argument("path", metavar="PATH", help="the published file, or the folder of a run")
    convert.add_argument("--architecture", choices=("celo", "celo_adam"), help="raise an error for another one")
    convert.add_argument("--out", required=True, metavar="FOLDER", help="folder to write")
    convert.add_argument("--overwrite", action="store_true", help="replace the folder if it holds weights")
    convert.add_argument("--repository", metavar="OWNER/REPO", help="where you will publish it, for the card")
    _add_record(convert)

    bundle = command(
        "bundle",
        _bundle,
        "list weights in this package",
        "For those who release celo-zoo: list weights in its index, and copy them into the package. They must\n"
        f"have a record of where they come from; older ones of the same name are replaced.\n\n{_REF}",
    )
    _add_source(bundle)
    bundle.add_argument("name", metavar="NAME", help="name to load them by")
    bundle.add_argument("--published", metavar="OWNER/REPO@COMMIT", help="where the same bytes are, which is checked")
    bundle.add_argument("--not-bundled", action="store_true", help="list them only")
    return parser


def _add_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", action="append", default=[], metavar="JSON", help="report.json of celo-tasks report, for the card"
    )
    parser.add_argument("--results-name", default="celo", metavar="NAME", help="the optimizer's name in there (celo)")
    parser.add_argument("--license", metavar="L", help="as the Hub spells it (what is recorded, else apache-2.0)")
    parser.add_argument("--note", action="append", default=[], metavar="TEXT", help="a sentence for the card's limits")


def _record(options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metadata and evaluation from the options of `_add_record`."""
    from celo_zoo import evaluation

    metadata = {"license": options.license} if options.license else {}
    if options.note:
        metadata["notes"] = options.note
    return metadata, [evaluation.from_report(path, options.results_name) for path in options.results]


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ref", metavar="REF", help="name, folder or owner/repo[@revision], see above")
    parser.add_argument("--revision", metavar="R", help="commit, tag or branch on the Hub (main)")
    parser.add_argument("--cache-dir", metavar="FOLDER", help="cache of the Hub's client")
    parser.add_argument("--offline", action="store_true", help="make no request")
    _add_hub(parser)


def _add_hub(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", metavar="URL", help="address of another Hub; a saved login is not sent there")
    parser.add_argument("--token-env", metavar="NAME", help="environment variable with the token to use")


def _token(options: argparse.Namespace) -> str | None:
    if options.token_env is None:
        return None
    if not (token := os.environ.get(options.token_env)):
        raise RefError(f"the environment variable {options.token_env} is empty: put the token there.")
    return token


def _source(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "revision": options.revision,
        "cache_dir": options.cache_dir,
        "token": _token(options),
        "endpoint": options.endpoint,
        "local_files_only": options.offline,
    }


def _list(options: argparse.Namespace) -> Any:
    from celo_zoo import index

    rows = [{"name": name, **dataclasses.asdict(entry)} for name, entry in index.entries().items()]
    if not options.json:
        for row in rows:
            place = "in the package" if row["bundled"] else f"{row['repository']}@{row['commit']}"
            say(f"{row['name']}  {row['architecture']}  {place}  sha256:{row['digest']}")
        if not rows:
            print("this version has no weights by name", file=sys.stderr)
    return rows


def _summary(found: Any) -> dict[str, Any]:
    return {
        "source": found.source,
        "commit": found.commit,
        "digest": found.digest,
        "reference": found.reference,
        "folder": str(found.folder),
        "architecture": found.architecture.name,
        "values": found.num_values,
    }


def _show(options: argparse.Namespace) -> Any:
    from celo_zoo import models

    found = models.load(options.ref, **_source(options))
    if not options.json:
        say(f"source: {found.source}")
        say(f"digest: sha256:{found.digest}")
        say(f"architecture: {found.architecture.name}, {found.num_values:,} values")
        for title in ("config", "provenance"):
            say(f"{title}:" if found.document[title] else f"{title}: nothing recorded")
            for key, value in found.document[title].items():
                say(f"  {key}: {value if isinstance(value, str) else json.dumps(value)}")
        say(f"results: {len(found.document['evaluation'])}, see README.md in {found.folder}")
    return {**_summary(found), **found.document}


def _fetch(options: argparse.Namespace) -> Any:
    from celo_zoo import models, saving

    if options.out is None:
        found = models.load(options.ref, **_source(options))
    else:
        found = saving.fetch(options.ref, options.out, overwrite=options.overwrite, **_source(options))
    if not options.json:
        say(str(found.folder))
        print(found.reference, file=sys.stderr)
    return _summary(found)


def _verify(options: argparse.Namespace) -> Any:
    from celo_zoo import models

    found = models.load(options.ref, **_source(options))
    if not options.json:
        say(f"{found.source}: every file is as in its checksums, and {found.num_values:,} finite values fit the config")
        say(found.reference)
    return _summary(found)


def _publish(options: argparse.Namespace) -> Any:
    from celo_zoo import folders, publishing

    metadata, evaluation = _record(options)
    published = publishing.publish(
        options.weights,
        options.repository,
        metadata=metadata,
        evaluation=evaluation,
        card=None if options.card is None else folders.read_text(options.card, "the card"),
        tag=options.tag,
        message=options.message,
        private=options.private,
        token=_token(options),
        endpoint=options.endpoint,
        dry_run=options.dry_run,
        progress=lambda line: print(f"celo-zoo: {line}", file=sys.stderr, flush=True),
    )
    if not options.json:
        say(f"{published.url}: {_what_happened(published)}")
        for change in published.changes:
            say(f"  {change.kind:9}  {change.path:17}  {change.size:>9,} bytes  sha256:{change.sha256}")
        say(f"tag: {published.tag or 'none'}")
        say(published.reference or f"digest: sha256:{published.digest}")
    return {**dataclasses.asdict(published), "reference": published.reference}


def _what_happened(published: Any) -> str:
    if all(change.kind == "unchanged" for change in published.changes):
        return f"holds this already, as commit {published.commit or published.parent}"
    if published.dry_run:
        return f"would get a commit onto {published.parent}" if published.parent else "would be made, and get a commit"
    return f"got the commit {published.commit}"


def _convert(options: argparse.Namespace) -> Any:
    from celo_zoo import convert, models, runs, saving

    if runs.is_run(options.path):
        theta, config, metadata = runs.load_run(options.path)
    else:
        theta, config = convert.convert_published(options.path, options.architecture)
        metadata = convert.published_metadata(options.path)
        print(f"left out, as they are unused: {', '.join(metadata['converted_from']['left_out'])}", file=sys.stderr)
    more, evaluation = _record(options)
    folder = saving.save(
        theta,
        config,
        options.out,
        metadata={**metadata, **more},
        evaluation=evaluation,
        repository=options.repository,
        overwrite=options.overwrite,
    )
    if not options.json:
        say(str(folder))
    return _summary(models.read_folder(folder))


def _bundle(options: argparse.Namespace) -> Any:
    from celo_zoo import bundling

    place = {"published": options.published, "bundled": not options.not_bundled}
    entry = bundling.bundle(options.ref, options.name, **place, **_source(options))
    if not options.json:
        say(f"{options.name}  {entry.architecture}  sha256:{entry.digest}")
    return {"name": options.name, **dataclasses.asdict(entry)}


if __name__ == "__main__":
    sys.exit(main())
