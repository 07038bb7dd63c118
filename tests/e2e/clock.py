"""`python -m tests.e2e.clock SECONDS …` runs a worker whose clock is that far off."""

from __future__ import annotations

import runpy
import sys
import time


def main() -> None:
    """Takes its own argument away, and becomes the worker."""
    off_s, real = float(sys.argv.pop(1)), time.time
    time.time = lambda: real() + off_s
    runpy.run_module("worker", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
