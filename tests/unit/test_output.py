"""What is said while a federation runs."""

from __future__ import annotations

import logging

from coordinator.facts import Answer
from coordinator.output import LogLines
from coordinator.validation import Verdict


def refused(number, sender="mallory"):
    return Answer("i", "train", f"a/{number}", 1, 0, "d", 0, number, "m", sender)


def test_a_login_s_thousands_of_refusals_are_a_few_lines(caplog):
    caplog.set_level(logging.INFO)
    lines = LogLines()
    for number in range(5000):
        lines.ruled(refused(number), Verdict("refused", "broken"))
    lines.ruled(refused(7, "b"), Verdict("refused", "shape"))
    assert len(caplog.messages) < 40
    assert "4095 more of login 'mallory'" in caplog.messages[-2]
    assert caplog.messages[-1] == "a/7: update refused: shape"
