"""Warnings that others can cause as often as they like: their first times are said, then each doubling."""

from __future__ import annotations

from collections import Counter

#: So many times are said one by one.
EACH = 20
#: Who is told apart: beyond that number all others are one.
MAX_KEYS = 1000


class Sparing:
    """Counts by who causes it; `each` times are worth a line of their own."""

    def __init__(self, each: int = EACH) -> None:
        self._each = each
        self._counts: Counter[str] = Counter()

    def ending(self, who: str) -> str | None:
        """How this time's line ends: "" mostly, later with how many there were; None: it isn't worth one."""
        who = who if who in self._counts or len(self._counts) < MAX_KEYS else ""
        self._counts[who] += 1
        count = self._counts[who]
        if count <= self._each:
            return ""
        return f" (and {count - 1} more of login {who!r})" if count.bit_count() == 1 else None

    def clear(self) -> None:
        """Begins anew."""
        self._counts.clear()
