"""Parts of the command line: its width, suggestions for mistyped words, and errors in writing the output."""

import argparse
import difflib
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TextIO

WIDTH = 100
"""Maximum number of columns of help and usage."""

PIPE_CLOSED = 141
"""Exit status if the reader of the output is gone, as of a program that the signal SIGPIPE ended (128 + 13)."""


def near(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most similar to ``word``, if any is similar enough."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        columns = shutil.get_terminal_size().columns - 2  # two less, as argparse itself
        super().__init__(*arguments, **{"width": min(WIDTH, columns), **keywords})


class Parser(argparse.ArgumentParser):
    """An argument parser that suggests a similar one for a mistyped command, choice or option.

    Descriptions and epilogs are shown as they are written; all else is wrapped to at most `WIDTH` columns.
    """

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**{"formatter_class": _Formatter, **keywords})
        self._given: list[str] = []
        self.suggest_on_error = False  # newer versions of argparse have their own suggestions, for choices only

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, but an unknown argument is an error of the subcommand that it was passed to."""
        self._given = list(sys.argv[1:] if args is None else args)
        found, rest = super().parse_known_args(self._given, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Prints usage and message with the hints, and exits with 2."""
        super().error("; ".join([message, *self._hints()]))

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse itself ignores it if the help cannot be written.
        if message and (stream := file or sys.stderr) is not None:
            stream.write(message)

    def _hints(self) -> list[str]:
        """For each unknown option, a suggestion of a similar one."""
        actions = self._option_string_actions
        given = self._given[: self._given.index("--")] if "--" in self._given else self._given
        words = [word.partition("=")[0] for word in given if word.startswith("--")]
        # Arguments of a subcommand are checked by its own parser.
        if any(isinstance(action, argparse._SubParsersAction) for action in self._actions):
            words = words[:1] if given and given[0].startswith("--") else []
        unknown = [word for word in words if not any(option.startswith(word) for option in actions)]
        return [f"did you mean {meant}?" for word in unknown if (meant := near(word, actions))]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            if meant := near(str(value), map(str, action.choices or ())):
                raise argparse.ArgumentError(action, f"{error.message}; did you mean {meant}?") from None
            raise


class OutputError(Exception):
    """Standard output could not be written."""


def say(text: str) -> None:
    """Prints a line to standard output.

    Raises:
      BrokenPipeError: its reader is gone.
      OutputError: it could not be written, as on a full disk.
    """
    try:
        print(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.strerror or str(error)) from error


def run(main: Callable[[], int], name: str) -> int:
    """Runs a command line and flushes its output; returns the exit status.

    Args:
      main: does the work, printing with `say`; returns an exit status or raises SystemExit.
      name: of the program, for its messages.

    Returns:
      What ``main`` returned; `PIPE_CLOSED` if the reader of the output is gone, as in ``... | head -1``; 2 if the output
      could not be written, as on a full disk.
    """
    if hasattr(sys.stdout, "reconfigure"):
        # Characters outside the terminal's encoding are escaped instead of raising an error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return main()
        finally:
            # Flushed here, since a failure when the interpreter ends would print a traceback.
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout, sys.stderr)
        return PIPE_CLOSED
    except (OutputError, OSError) as error:
        _silence(sys.stdout)
        reason = getattr(error, "strerror", None) or error
        print(f"{name}: the output could not be written ({reason}): check the disk that it goes to.", file=sys.stderr)
        return 2


def _silence(*streams: TextIO | None) -> None:
    """Discards what is left in the buffers."""
    for stream in streams:
        try:
            descriptor = stream.fileno() if stream is not None else None
        except (OSError, ValueError):  # a stream of a test, or one that is closed
            continue
        if descriptor is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
