"""scikit-learn's handwritten digits as ten uneven sites: the data of the demo.

A quarter of the rows, stratified by digit, is held out for comparisons and no site ever sees it. The others
go to the sites by a Dirichlet draw for each digit: the smaller alpha, the fewer digits a site knows well. A
site holds some of its own rows back as test rows, for federated evaluation.

    python deploy/digits.py [--folder demo-run/digits] [--seed 0] [--sites 10] [--clients 1]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
except ImportError:
    raise SystemExit("scikit-learn, which has the digits, is missing: pip install -e '.[demo]'") from None

Array = npt.NDArray[Any]

FOLDER = Path(__file__).parents[1] / "demo-run" / "digits"
HELD_OUT = 0.25
#: Of a site's own rows, those that it only evaluates on.
SITE_TEST = 0.15
MIN_ROWS = 20
#: Pixels are counts from 0 to 16.
BRIGHTEST = 16


def prepare(
    folder: Path, sites: int = 10, alpha: float = 0.3, seed: int = 0, clients: int = 1
) -> tuple[list[Path], Path]:
    """Writes site-00.npz … and test.npz; returns the sites' files, and the held-out one's.

    With several `clients` a site, its rows are dealt to that many partitions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    x, y = load_digits(return_X_y=True)
    x, y = (x / BRIGHTEST).astype(np.float32), y.astype(np.int64)
    x, x_out, y, y_out = train_test_split(x, y, test_size=HELD_OUT, stratify=y, random_state=seed)
    held_out = folder / "test.npz"
    np.savez(held_out, x=x_out, y=y_out)
    rng = np.random.default_rng(seed)
    files = [folder / f"site-{number:02d}.npz" for number in range(sites)]
    for file, rows in zip(files, deal(y, sites, alpha, rng), strict=True):
        _write_site(file, x[rows], y[rows], clients)
    return files, held_out


def deal(y: Array, sites: int, alpha: float, rng: np.random.Generator) -> list[Array]:
    """Each site's rows, shuffled: drawn until every site has at least MIN_ROWS.

    Raises:
        ValueError: there are too few rows for so many sites.
    """
    if len(y) < sites * MIN_ROWS * 2:
        raise ValueError(f"{len(y)} rows are too few for {sites} sites of at least {MIN_ROWS}")
    while True:
        dealt = _draw(y, sites, alpha, rng)
        if min(len(rows) for rows in dealt) >= MIN_ROWS:
            return [rng.permutation(rows) for rows in dealt]


def _draw(y: Array, sites: int, alpha: float, rng: np.random.Generator) -> list[Array]:
    dealt: list[list[Array]] = [[] for _ in range(sites)]
    for digit in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == digit))
        shares = rng.dirichlet(np.full(sites, alpha))
        ends = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for mine, part in zip(dealt, np.split(rows, ends), strict=True):
            mine.append(part)
    return [np.concatenate(mine) for mine in dealt]


def _write_site(file: Path, x: Array, y: Array, clients: int) -> None:
    tests = round(len(y) * SITE_TEST)
    arrays = {"x": x[tests:], "y": y[tests:], "x_test": x[:tests], "y_test": y[:tests]}
    if clients > 1:
        arrays |= {
            "partition": np.arange(len(y) - tests) % clients,
            "partition_test": np.arange(tests) % clients,
        }
    np.savez(file, **arrays)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Prepares the demo's data: handwritten digits at uneven sites."
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which split (default: %(default)s)")
    parser.add_argument("--sites", type=int, default=10, help="how many sites (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=1, help="clients at each site (default: %(default)s)")
    arguments = parser.parse_args()
    files, held_out = prepare(
        arguments.folder, sites=arguments.sites, seed=arguments.seed, clients=arguments.clients
    )
    print(f"{len(files)} sites and {held_out.name} are in {arguments.folder}")


if __name__ == "__main__":
    main()
