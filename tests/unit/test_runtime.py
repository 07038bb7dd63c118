"""Clocks."""

from __future__ import annotations

from shared.runtime import Threads, steady


class Jumping(Threads):
    """A machine whose clock of the day is put right while it runs."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.up_s = 100.0

    def time(self) -> float:
        return 1_000_000.0 + self.ahead_s + self.up_s

    def monotonic(self) -> float:
        return self.up_s


def test_a_steady_clock_goes_on_when_the_clock_of_the_day_jumps():
    machine = Jumping()
    clock = steady(machine)
    assert clock() == machine.time()
    machine.ahead_s, machine.up_s = -7200.0, 110.0
    assert clock() == 1_000_110.0
