"""The part of the command ``celo-tasks`` that measures how fast this machine meta-trains."""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

_BENCH_META = """\
Measure how fast this machine meta-trains Celo: inner training steps per second, both members of each pair counted.

The problems are the paper's: a multilayer perceptron on 8x8 images, badly scaled at random. At 32 pairs four programs are
measured: meta-training of the update rule, and of the scheduler; the same with gradient descent as the optimizer, which
leaves the inner gradients only and so tells what the update rule costs; and plain training with Adam, of as many
networks on the same problems. At other numbers of pairs it is the update rule and Adam.

Each program is a block of 5 meta-iterations. It is compiled and run once, then timed --repeats times, in turn with the
others. Shown are medians, the smallest and the largest; what the first call took; temporary memory of the program on each
device; and the state that each pair adds. Nothing else should run on the machine.
"""

_BENCH_META_EXAMPLES = """\
examples:
  celo-tasks bench-meta                                     # a table, in some minutes on 2 cores
  celo-tasks bench-meta --pairs 32                          # the default case only
  celo-tasks bench-meta --out bench.json --plot bench.png   # every number, and a picture
  celo-tasks bench-meta --pairs 32,2048 --data-dir arrays   # a GPU's limits, on prepared arrays
  celo-tasks bench-meta --json | tail -n 1 | jq .inner_steps_per_second   # one number
"""


def add_commands(commands: Any) -> None:
    """Adds ``bench-meta``."""
    from celo_tasks.cli.common import default_cpu_devices

    parser = commands.add_parser(
        "bench-meta",
        help="measure how fast this machine meta-trains",
        description=_BENCH_META,
        epilog=_BENCH_META_EXAMPLES,
    )
    add = parser.add_argument
    pairs = "numbers of antithetic pairs; 32 is measured always (8,16,32,64,128 on a CPU, else 32,128,512,1024)"
    add("--pairs", metavar="A,B,...", help=pairs)
    add("--truncation", type=int, default=50, metavar="N", help="inner steps per meta-iteration (50)")
    add("--data-dir", metavar="FOLDER", help="folder of arrays NAME.npz (x_train, y_train, x_test, y_test; uint8)")
    names = "image sets (the paper's four if they are on this machine, else those in the package)"
    add("--datasets", metavar="A,B,...", help=names)
    seconds = "time each program at least S seconds for each number of pairs, over all repeats (3)"
    add("--seconds", type=float, default=3.0, metavar="S", help=seconds)
    add("--repeats", type=int, default=5, metavar="N", help="timings of each program, at least a block each (5)")
    devices = "on a CPU, split the work over N threads of their own (all cores)"
    add("--cpu-devices", type=int, default=default_cpu_devices(), metavar="N", help=devices)
    add = parser.add_argument_group("what comes out").add_argument
    add("--json", action="store_true", help="in place of the table, the last line is one JSON object")
    add("--out", type=Path, metavar="FILE", help="write that JSON to a file")
    add("--plot", type=Path, metavar="FILE", help="draw rate against number of pairs, as a PNG")
    parser.set_defaults(run=_bench_meta)


def _bench_meta(options: argparse.Namespace) -> int:
    options.interrupts.leave_with("stopped; what was measured, if anything, is shown")
    import jax

    from celo_core import files
    from celo_tasks.cli.common import default_datasets, names
    from celo_tasks.meta_training import bench as bench_meta
    from celo_tasks.meta_training import bench_report

    # Whatever can be said about the options is said before minutes of measuring.
    pairs = None if options.pairs is None else _integers(options.pairs)
    if options.cpu_devices < 1:
        raise ValueError(f"the number of CPU devices must be at least 1, not {options.cpu_devices}.")
    for path in (options.out, options.plot):
        if path is not None and path.is_dir():
            raise ValueError(f"{path} is a folder: name a file in it.")

    # JAX already runs where this is called from a program of one's own; then its devices stay as they are.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", options.cpu_devices)

    settings = bench_meta.BenchSettings(
        datasets=names(options.datasets or "") or default_datasets(options.data_dir),
        pairs=bench_meta.default_pairs() if pairs is None else pairs,
        truncation=options.truncation,
        data_dir=options.data_dir,
        seconds=options.seconds,
        repeats=options.repeats,
    )
    record: dict[str, Any] = {}
    try:
        record = bench_meta.measure(settings, on_case=record.update)
        status = 0
    except KeyboardInterrupt:
        if not record:
            raise
        status = options.interrupts.status
    if options.out is not None:
        files.write_json(options.out, record)
    if options.plot is not None:
        files.write_bytes(options.plot, bench_report.draw(record))
    print(json.dumps(record, allow_nan=False) if options.json else bench_report.table(record))
    return status


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise ValueError(f"numbers of pairs are integers with commas between them, not {text!r}.") from error
