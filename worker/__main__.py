"""`warren-worker` and `python -m worker`."""

from __future__ import annotations

import sys

from shared.errors import WarrenError


def main() -> None:
    """Runs a worker; what goes wrong on purpose is one sentence and an exit code."""
    try:
        from worker.cli import app  # Ctrl-C may come while all the modules are read

        app()
    except WarrenError as error:
        print(f"warren-worker: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
