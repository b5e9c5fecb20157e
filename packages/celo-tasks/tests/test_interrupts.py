"""SIGINT and SIGTERM: what is said, what is finished, and that a process ends even while XLA keeps its main thread."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest

from celo_tasks.cli import interrupts as interrupts_
from celo_tasks.cli.interrupts import Interrupted, Interrupts

LONG = 120
"""Seconds within which a process must have got somewhere: far more than it takes."""

STUCK = """
    import sys
    import jax
    from celo_tasks.cli import interrupts as interrupts_
    from celo_tasks.cli.interrupts import Interrupts

    # Billions of steps: as long a block as none of meta-training is.
    forever = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda i, x: x * 0.5 + 1.0, jax.numpy.float32(0)))
    forever(3).block_until_ready()
    with Interrupts(own_process=True) as interrupts:
        interrupts.{how}("text of the test")
        print("ready", flush=True)
        try:
            forever(2**31 - 1).block_until_ready()
            forever(2**31 - 1).block_until_ready()
        finally:
            print("reached", flush=True)
"""


@pytest.fixture
def run() -> Iterator:
    """Starts a script; it is killed where a test leaves it running."""
    started = []

    def start(script: str) -> subprocess.Popen:
        command = [sys.executable, "-c", textwrap.dedent(script)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n", process.communicate()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_a_process_whose_main_thread_is_in_xla(run, number, status):
    process = run(STUCK.format(how="finish_with"))
    process.send_signal(number)
    assert process.stderr.readline() == "celo-tasks: text of the test; a second signal ends it at once.\n"
    assert process.poll() is None, "the first is a request"
    process.send_signal(number)
    out, errors = process.communicate(timeout=LONG)
    assert (process.returncode, out, errors) == (status, "", "")


def test_a_signal_ends_a_process_that_has_nothing_to_finish(run):
    process = run(STUCK.format(how="leave_with"))
    time.sleep(0.3)  # so that it is in XLA: if it is not yet, it ends all the same
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "celo-tasks: text of the test.\n"
    out, _ = process.communicate(timeout=LONG)
    assert process.returncode == 143 or "reached" in out


def test_a_second_signal_does_not_wait_for_the_grace_of_the_first(run):
    process = run(STUCK.format(how="leave_with").replace("    with", "    interrupts_.GRACE = 600.0\n    with"))
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "celo-tasks: text of the test.\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=LONG)
    assert process.returncode == 130 or "reached" in out


def test_a_signal_to_the_process_and_to_its_group_is_one(run):
    """As GNU timeout sends it."""
    process = run("""
        import sys, time
        from celo_tasks.cli.interrupts import Interrupts
        with Interrupts(own_process=True) as interrupts:
            interrupts.finish_with("text")
            print("ready", flush=True)
            while not interrupts():
                time.sleep(0.01)
            time.sleep(0.3)
        sys.exit(7)
    """)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LONG)
    assert process.returncode == 7 and errors.count("celo-tasks: text") == 1


def test_the_text_is_there_before_the_work_goes_on(capsys):
    with Interrupts(own_process=False) as interrupts:
        interrupts.finish_with("asked to stop")
        assert not interrupts()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts() and interrupts.status == 143
        assert capsys.readouterr().err == "celo-tasks: asked to stop.\n"
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)  # a second one, where the process must not be ended
            time.sleep(LONG)


def test_the_handlers_of_before_are_back_afterwards(capsys):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted), Interrupts(own_process=False) as interrupts:
        interrupts.leave_with("stopped")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(LONG)
    assert interrupts.status == 130
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert capsys.readouterr().err == "celo-tasks: stopped.\n"
    assert not any(thread.name == "signals" for thread in threading.enumerate())


def test_other_threads_than_the_main_one_leave_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with Interrupts(own_process=False) as interrupts:
            seen.append((signal.getsignal(signal.SIGINT), interrupts()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


@pytest.mark.parametrize("dropped", [1, 2])
def test_a_signal_in_a_callback_of_the_garbage_collector_is_not_lost(dropped, capfd, monkeypatch):
    """Python drops what such a callback raises, and JAX has one."""
    # Longer than the next collection is away, which a freeze of what the other tests have left makes short.
    monkeypatch.setattr(interrupts_, "AGAIN", 0.5)
    left = dropped

    def callback(phase: str, info: dict) -> None:
        nonlocal left
        if left and phase == "start":
            left -= 1
            if left == dropped - 1:
                signal.raise_signal(signal.SIGINT)
            time.sleep(LONG)  # until what is raised anew comes, into this one too

    gc.freeze()
    try:
        with pytest.raises(Interrupted), Interrupts(own_process=False) as interrupts:
            interrupts.leave_with("text of the test")
            gc.callbacks.append(callback)
            until = time.monotonic() + 30
            while time.monotonic() < until:
                gc.collect()
                time.sleep(0.0 if left else 0.3)  # most of a program's time passes elsewhere
    finally:
        gc.callbacks.remove(callback)
        gc.unfreeze()
    assert left == 0 and interrupts.number == signal.SIGINT
    assert capfd.readouterr().err == "celo-tasks: text of the test.\n"
