"""What a user meets of the command before it does anything: help, hints at what was meant, and pipes that nobody reads."""

import argparse
import difflib
import os
import re
import select
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

WIDTH = 100
"""Of help and usage at most, in characters: longer lines are hard to read."""

PIPE_CLOSED = 141
"""Exit status where the reader of the output has gone: what a shell reports of a program that SIGPIPE ended."""


class Help(argparse.RawDescriptionHelpFormatter):
    """Help of at most `WIDTH` characters: paragraphs are filled, and those with an indented line are left as they are."""

    def __init__(self, prog: str, **kwargs: Any) -> None:
        width = min(WIDTH, shutil.get_terminal_size().columns - 2)
        super().__init__(prog, **{**kwargs, "width": width, "max_help_position": 28})

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = lambda part: part if re.search(r"^\s", part, re.MULTILINE) else textwrap.fill(part, width)
        return textwrap.indent("\n\n".join(map(fill, text.strip().split("\n\n"))), indent)


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that hints at the subcommand, option or choice that was meant, on every Python."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": Help, **kwargs})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As the base class, except that an option that does not exist is found out before one that is missing."""
        args = sys.argv[1:] if args is None else list(args)
        if name := next(filter(self._is_unknown, self._options_among(args)), None):
            # Without the dashes, which are alike in all.
            known = [option[2:] for option in self._option_string_actions if option.startswith("--")]
            meant = _question(name.lstrip("-").replace("_", "-"), known, "--")
            self.error(f"there is no option {name}{meant} (`{self.prog} --help` shows them all)")
        return super().parse_known_args(args, namespace)

    def _options_among(self, args: Sequence[str]) -> Iterator[str]:
        """What has the form of an option of this parser's: a word after one dash or two, which no negative number is."""
        for arg in args:
            if arg == "--" or (self._subparsers is not None and not arg.startswith("-")):
                return  # what follows are operands, or a subcommand with options of its own
            if re.fullmatch(r"--?[A-Za-z][\w-]*", name := arg.partition("=")[0]):
                yield name

    def _is_unknown(self, name: str) -> bool:
        if name.startswith("--"):  # argparse takes abbreviations
            return not any(known.startswith(name) for known in self._option_string_actions)
        return not any(name.startswith(known) for known in self._option_string_actions if known[1] != "-")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            meant = _question(str(value), known)
            raise argparse.ArgumentError(action, f"there is no {value!r}{meant} (choose from {', '.join(known)})")


def _question(name: str, known: Iterable[str], prefix: str = "") -> str:
    known = list(known)
    similar = [name] if name in known else difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    return f", did you mean {' or '.join(prefix + one for one in similar)}?" if similar else ""


def nobody_reads() -> bool:
    """Whether standard output or error is a pipe without a reader.

    What cannot be written there, for this reason or another, is dropped: Python would complain of it at its end otherwise.
    """
    gone = False
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is None or (not _is_broken(stream) and stream.flush() is None):
                continue
            gone = True
        except OSError as error:
            gone |= isinstance(error, BrokenPipeError)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return gone


def _is_broken(stream: TextIO) -> bool:
    """Whether a stream is a pipe without a reader: the system knows, while a stream that has failed once may not fail again."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # no such call on Windows; a stream of a test or a notebook
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
