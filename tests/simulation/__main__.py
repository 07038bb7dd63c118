"""`python -m tests.simulation`: many seeds on all cores, or one of them again with its trace."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from collections.abc import Sequence

from tests.simulation.many import Total, results
from tests.simulation.run import simulate

#: Seconds between two lines of progress.
PROGRESS_S = 5.0
#: Wrong seeds that are shown whole.
SHOWN = 20


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: print what happens")
    parser.add_argument("--first", type=int, default=0, help="the first of many seeds")
    parser.add_argument("--seeds", type=int, default=20_000, help="how many")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes")
    parser.add_argument("--lossy", action="store_true", help="a restarted broker loses the ends of logs")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        logging.disable(logging.CRITICAL)
        return _one(options.seed, options.lossy, options.trace)
    seeds = range(options.first, options.first + options.seeds)
    return _many(seeds, options.lossy, options.jobs)


def _one(seed: int, lossy: bool, trace: bool) -> int:
    result = simulate(seed, lossy=lossy, say=print if trace else None)
    for wrong in result.wrong:
        print(f"seed {seed}: {wrong}")
    faults = sum(result.faults.values())
    print(f"seed {seed}: {result.rounds} rounds, {result.leaders} leaders, {faults} faults")
    return 1 if result.wrong else 0


def _many(seeds: range, lossy: bool, jobs: int) -> int:
    began = said = time.monotonic()
    total = Total()
    for result in results(seeds, lossy, jobs):
        total.add(result)
        for wrong in result.wrong[: 1 if total.wrong <= SHOWN else 0]:
            print(f"seed {result.seed}: {wrong}\n    {again(result.seed, lossy)}", flush=True)
        if time.monotonic() - said > PROGRESS_S:
            said = time.monotonic()
            print(f"{total.text(said - began)}, of {len(seeds)}", flush=True)
    print(total.text(time.monotonic() - began))
    print("faults: " + ", ".join(f"{kind} {n}" for kind, n in sorted(total.faults.items())))
    return 1 if total.wrong else 0


def again(seed: int, lossy: bool) -> str:
    """The command that repeats a seed."""
    return f"python -m tests.simulation --seed {seed}{' --lossy' if lossy else ''} --trace"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
