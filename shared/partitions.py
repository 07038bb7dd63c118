"""Names of partitions on the wire: runs of whole numbers as one item, so that thousands stay small."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared.errors import OversizeError

#: Between the ends of a run; no partition's name has it.
TO = ":"


def compact(names: Iterable[str]) -> list[str]:
    """The names, with runs such as "0", "1", "2" as "0:2"; in their order but for the numbers, which lead."""
    given = list(dict.fromkeys(names))
    numbers = sorted(int(name) for name in given if _is_number(name))
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    items = [str(first) if first == last else f"{first}{TO}{last}" for first, last in runs]
    return items + [name for name in given if not _is_number(name)]


def expand(items: Sequence[str], most: int) -> list[str]:
    """The names that `compact` was given, as a set; anything that is no run stays as it is.

    Raises:
        OversizeError: they are more than `most`.
    """
    names: list[str] = []
    for item in items:
        first, colon, last = item.partition(TO)
        run = colon and _is_number(first) and _is_number(last)
        count = int(last) - int(first) + 1 if run else 1
        if len(names) + count > most:
            raise OversizeError(f"there are more than {most} partitions")
        names += [str(number) for number in range(int(first), int(last) + 1)] if run else [item]
    return names


def _is_number(name: str) -> bool:
    """Whether it is a whole number as Python writes it: 7, and not 07."""
    return name.isascii() and name.isdigit() and len(name) <= 15 and str(int(name)) == name
