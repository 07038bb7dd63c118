"""The state machine under any order of events: hypothesis plays clients, time, and crashes."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.facts import Phase, Rules
from coordinator.moves import Died, Seen
from coordinator.selection import Selection

SITES = "abcde"
HUGE = "tensor 'w' holds values that are absurdly large"

OUTCOMES = ["good", "good", "good", "error", "refusal", "huge", "huge", "stranger", "other login"]

selections = st.one_of(
    st.just(Selection()),
    st.builds(Selection, fraction=st.sampled_from([0.3, 0.5, 1.0]), over_select=st.sampled_from([1.0, 1.5])),
    st.builds(Selection, size=st.integers(2, 6), over_select=st.sampled_from([1.0, 1.3])),
)
rules = st.builds(
    Rules,
    seed=st.integers(0, 5),
    rounds=st.integers(1, 6),
    buffered=st.booleans(),
    selection=selections,
    minimum=st.integers(1, 2),
    target=st.one_of(st.none(), st.integers(2, 4)),
    deadline_s=st.just(10.0),
    on_missing=st.sampled_from(["wait", "skip", "stop"]),
    min_clients=st.integers(2, 4),
    absent_s=st.sampled_from([15.0, 1e6]),
    concurrency=st.integers(1, 5),
    buffer=st.integers(1, 4),
    max_staleness=st.integers(0, 2),
    attest=st.booleans(),
    evaluators=st.sampled_from([frozenset(), frozenset("e")]),
    evaluate_last=st.booleans(),
)


def trained(world):
    return [answer for answer in world.results if answer.work == "train"]


class Federation(RuleBasedStateMachine):
    """Everything that can happen to one federation."""

    World: ClassVar[type]

    @initialize(given=rules)
    def begin(self, given):
        self.world = self.World(given)
        self.verdicts = Counter()

    @rule(site=st.sampled_from(SITES), clients=st.integers(1, 3))
    def site_is_seen(self, site, clients):
        self.world.feed(Seen(self.world.now, site, tuple(str(n) for n in range(clients))))

    @precondition(lambda self: self.world.issued)
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES))
    def client_answers(self, data, outcome):
        recent = self.world.issued[-12:]
        order = data.draw(st.sampled_from(recent))
        changes = {
            "good": {},
            "error": {"error": "out of memory"},
            "refusal": {"refusal": "tensor 'w' is not finite"},
            "huge": {"refusal": HUGE},
            "stranger": {"client": "z/0"},
            "other login": {"sender": "x"},
        }[outcome]
        self.verdicts[self.world.answer(order, **changes).verdict.ruling] += 1

    @precondition(lambda self: self.world.state.phase is not Phase.FINISHED and trained(self.world))
    @rule(data=st.data())
    def operator_asks_for_an_update(self, data):
        answers = trained(self.world)
        odd = [answer for answer in answers if answer.refusal == HUGE or answer.sender == "x"]
        answer = data.draw(st.sampled_from((odd or answers)[-6:]))
        # What is huge may be let in; what is broken stays broken, whoever asks.
        refusal = "" if answer.refusal == HUGE else answer.refusal
        before = self.world.state.outcome.get(answer.id)
        refused = self.world.appeal(answer, refusal=refusal)
        if refusal or answer.error or answer.client == "z/0" or before == "accepted":
            assert refused

    @precondition(lambda self: self.world.state.waiting)
    @rule(data=st.data())
    def assignment_dies(self, data):
        id_ = data.draw(st.sampled_from(sorted(self.world.state.waiting)))
        self.world.feed(Died(self.world.now, id_, "never taken"))

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 10.0, 16.0]))
    def time_passes(self, seconds):
        self.world.tick(seconds)

    @precondition(lambda self: self.world.state.phase is not Phase.FINISHED)
    @rule()
    def coordinator_crashes(self):
        before = self.world.state
        ruled = len(self.world.ruled)
        self.world.crash()
        after = self.world.state
        # What the rereading ruled again is the same verdicts once more, so they are not counted twice.
        del self.world.ruled[ruled:]
        assert list(after.accepted) == list(before.accepted)
        assert after.counts == before.counts
        assert after.appeals == before.appeals
        assert after.waiting.keys() == before.waiting.keys()
        assert after.evaluations.keys() == before.evaluations.keys()
        assert (after.round, after.version, after.digest) == (before.round, before.version, before.digest)
        assert (after.phase, after.clients, after.absent) == (before.phase, before.clients, before.absent)

    @invariant()
    def every_answer_has_exactly_one_verdict(self):
        assert len(self.world.ruled) == len(self.world.results)

    @invariant()
    def an_update_is_counted_at_most_once(self):
        counted = Counter(row[1] for entry in self.world.closings() for row in entry.rows)
        assert all(times == 1 for times in counted.values())

    @invariant()
    def what_is_counted_was_issued_and_is_fresh_enough(self):
        issued = {order.id: order for order in self.world.issued}
        version = -1
        for entry in self.world.journal:
            if entry.kind == "round-closing":
                for row in entry.rows[0]:
                    assert row[1] in issued
                    assert version - row[2] <= self.world.rules.max_staleness
            if entry.kind == "round-closed":
                version = entry.data["version"]

    @invariant()
    def a_client_counts_once_a_round_in_rounds_mode(self):
        if not self.world.rules.buffered:
            for entry in self.world.closings():
                assert all(times == 1 for times in Counter(row[0] for row in entry.rows).values())

    @invariant()
    def rounds_close_with_their_minimum(self):
        given = self.world.rules
        for entry in self.world.closings()[1:]:
            least = given.buffer if given.buffered else given.minimum
            assert entry.data["skipped"] or len(entry.rows) >= least

    @invariant()
    def counts_add_up(self):
        closed = Counter()
        for entry in self.world.closings():
            closed.update(entry.data["counts"])
        closed.update(self.world.state.counts)
        # What was let in was refused before, and has both verdicts.
        readmitted = closed.pop("readmitted", 0)
        assert sum(closed.values()) == len(self.world.results) + readmitted

    @invariant()
    def buffered_mode_keeps_its_concurrency(self):
        state, given = self.world.state, self.world.rules
        if not given.buffered or state.phase is not Phase.OPEN:
            return
        live = [o for o in state.waiting.values() if o.issued_at + given.deadline_s > self.world.now]
        assert len(live) <= given.concurrency

    @invariant()
    def digests_form_a_chain(self):
        parent = ""
        for entry in self.world.journal:
            if entry.kind == "round-closed":
                assert entry.data["parent"] == parent
                parent = entry.data["digest"]

    @invariant()
    def who_only_evaluates_never_counts(self):
        for entry in self.world.closings()[1:]:
            assert not {row[0].partition("/")[0] for row in entry.rows} & self.world.rules.evaluators

    @invariant()
    def nobody_waits_for_a_finished_federation(self):
        if self.world.state.phase is Phase.FINISHED:
            assert self.world.ended is not None


@pytest.mark.timeout(120)
def test_any_order_of_events(world):
    Federation.World = world
    Federation.TestCase.settings = settings(
        max_examples=150, stateful_step_count=40, deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )  # fmt: skip
    Federation.TestCase("runTest").runTest()
