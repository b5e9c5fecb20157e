"""Ctrl-C and SIGTERM while XLA works: what happens is said at once, and a second signal ends the process at once.

A signal handler of Python runs between two bytecodes of the main thread, which waits in XLA for as long as a compilation or a
block of training takes. So a thread reads the signals, from the file descriptor to which Python's handler in C writes them.
"""

import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)

TOGETHER = 0.1
"""Signals within so many seconds of the first are the same one: GNU timeout, say, sends it to a process and to its group."""

AGAIN = 0.02
"""Seconds after which an exception is raised anew that Python has dropped."""

GRACE = 3.0
"""Seconds after which a process ends that was to end at the first signal, but whose main thread has not come out of XLA."""


class Interrupted(KeyboardInterrupt):
    """A signal that ends the work at hand."""


class Interrupts:
    """What SIGINT and SIGTERM do while the block lasts; in another thread than the main one, what they did before.

    The first signal is announced on standard error, and raises `Interrupted` in the main thread (see `leave_with`) or is a
    request that the work asks for by calling this object (see `finish_with`). A second one ends the process, or raises
    `Interrupted` where the process is not this command's own.

    Args:
      own_process: whether the process is this command's own, which may be ended; not so in a notebook or a test.

    Attributes:
      number: the first signal, ``None`` before there is one.
    """

    def __init__(self, own_process: bool) -> None:
        self.number: int | None = None
        self._own = own_process
        self._handled, self._repeated = 0, 0
        self._finish, self._text = False, "stopped"
        self._reached, self._announced = threading.Event(), threading.Event()
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether a signal has come; it has been announced then."""
        if self.number is not None and self._before:
            self._announced.wait(timeout=5 * TOGETHER)
        return self.number is not None

    @property
    def status(self) -> int:
        """The exit status of what a signal ended: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + (self.number or signal.SIGINT)

    def leave_with(self, text: str) -> None:
        """From now on the first signal ends the work at once; ``text`` is announced, and says what is kept."""
        self._finish, self._text = False, text

    def finish_with(self, text: str) -> None:
        """From now on the first signal is a request alone; ``text`` is announced, and says what is still done."""
        self._finish, self._text = True, text

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
            self._thread.start()
            self._before_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            self._before_hook, sys.unraisablehook = sys.unraisablehook, self._dropped
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.arm()
        return self

    def arm(self) -> None:
        """Sets the handlers, also after a library has set its own."""
        if self._before:
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        before, self._before = self._before, {}  # at once: nothing is raised anew from here on
        if before:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            sys.unraisablehook = self._before_hook
            signal.set_wakeup_fd(self._before_fd)
            self._writer.close()  # the thread reads what is there, and ends
            self._thread.join(timeout=2 * TOGETHER)
            self._reader.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, as soon as that is in Python."""
        del frame
        self._handled += 1
        self.number = self.number or number
        self._reached.set()
        # In a process of its own a second signal is the thread's affair: here it would cut short what the first has begun.
        if (self._handled == 1 and not self._finish) or (self._handled > 1 and not self._own):
            raise Interrupted

    def _dropped(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Python drops what is raised in a finaliser or a callback of its garbage collector: then it is raised anew."""
        if issubclass(unraisable.exc_type, Interrupted):
            again = threading.Timer(AGAIN, self._repeat)
            again.daemon = True
            again.start()
        else:
            self._before_hook(unraisable)

    def _repeat(self) -> None:
        if self._before and self.number is not None:
            self._handled, self._repeated = 0, self._repeated + 1
            signal.pthread_kill(threading.main_thread().ident or 0, self.number)

    def _watch(self) -> None:
        if not self._received():
            return
        first = time.monotonic()
        while self._received(first + TOGETHER):
            continue  # the same one
        self._announce()
        if not self._finish:
            second = self._received(first + GRACE)
            if second or (second is None and not self._reached.is_set()):
                self._end()
        while self._received():
            self._end()

    def _received(self, until: float | None = None) -> bool | None:
        """Waits for a signal; false where the block has ended, and ``None`` where the time is over."""
        while until is None or time.monotonic() < until:
            self._reader.settimeout(None if until is None else max(until - time.monotonic(), 1e-3))
            try:
                numbers = self._reader.recv(64)
            except TimeoutError:
                return None
            if not numbers:
                return False
            known = [number for number in numbers if number in SIGNALS]
            known, self._repeated = known[self._repeated :], max(0, self._repeated - len(known))
            if known:
                self.number = self.number or known[0]
                return True
        return None

    def _announce(self) -> None:
        second = "; a second signal ends it at once" if self._finish and self._own else ""
        try:
            # A progress line of a terminal is left to stand.
            begin = "\n" if sys.stderr is not None and sys.stderr.isatty() else ""
            print(f"{begin}celo-tasks: {self._text}{second}.", file=sys.stderr, flush=True)
        except (OSError, ValueError):  # nobody reads it
            pass
        self._announced.set()

    def _end(self) -> None:
        if self._own:
            os._exit(self.status)
