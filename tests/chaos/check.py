"""`python -m tests.chaos.check FEDERATION BROKER`: was every update counted exactly once?

It reads the four logs itself, and asks nothing of the code that it judges. Prints what it found, and a line
for each thing that is not as promised; exits with 1 if there is any.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.journal import Closing, Counted, Order, Story, counting, tell
from tests.chaos.logs import Logs, read
from tests.chaos.recompute import Update, next_model
from tests.chaos.wire import Contents, Key, Message, contents, digest_of


@dataclass
class Findings:
    """`wrong`: a sentence for each broken promise. `outcomes`: how many updates met which."""

    story: Story
    wrong: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    recomputed: int = 0


@dataclass(frozen=True)
class Evidence:
    """What the logs hold, put together; the results and the round tasks by what names them."""

    story: Story
    results: Contents
    updates: dict[Key, Message]
    tasks: dict[str, Message]

    @classmethod
    def of(cls, logs: Logs) -> Evidence:
        results = contents(logs.results)
        tasks = {message.header["digest"]: message for message in contents(logs.rounds).messages}
        story = tell(counting(contents(logs.events).messages))
        return cls(story, results, {message.key: message for message in results.messages}, tasks)


def check(logs: Logs) -> Findings:
    """Judges a federation that has ended."""
    evidence = Evidence.of(logs)
    story = evidence.story
    found = Findings(story)
    if not story.run:
        found.wrong.append("the journal does not say that the federation began")
        return found
    found.wrong += evidence.results.malformed
    for judge in (_ended, _rows, _counted_once, _chain, _tasks, _sums):
        found.wrong += judge(evidence)
    for message in evidence.results.messages:
        outcome, complaint = _outcome(evidence, message)
        found.outcomes[outcome] += 1
        found.wrong += [complaint] if complaint else []
    for message in evidence.results.torn:
        # As if it were whole: what it brings must be there another time.
        found.outcomes["torn"] += 1
        found.wrong += filter(None, [_outcome(evidence, message)[1]])
    if story.config["server"]["optimizer"] == "fedavg":
        for wrong in _recomputed(evidence):
            found.wrong += [wrong] if wrong else []
            found.recomputed += 1
    return found


def _ended(evidence: Evidence) -> Iterator[str]:
    story = evidence.story
    if story.code != 0:
        yield f"the journal does not end with a success (its code: {story.code})"
    if story.losses:
        yield f"the broker lost the end of the results log {story.losses} times"
    rounds = [closing.round for closing in story.closings]
    if rounds != list(range(story.config["federation"]["rounds"] + 1)):
        yield f"the rounds that closed are {rounds}"


def _rows(evidence: Evidence) -> Iterator[str]:
    """Every counted row is an update in the results log, whole, ours, and what its order asked for."""
    for closing in evidence.story.closings:
        for row in closing.rows:
            message = evidence.updates.get(row.key)
            order = evidence.story.orders.get(row.id)
            if message is None or row.offset not in message.starts:
                yield f"round {closing.round}: no update of {row.client}'s lies whole at offset {row.offset}"
            elif order is None:
                yield f"round {closing.round}: {row.client}'s update answers an order that was never issued"
            elif not _answers(evidence.story, order, message) or message.header["error"]:
                yield f"round {closing.round}: the message at offset {row.offset} does not answer its order"
            elif (row.client, row.version, row.examples, row.head) != _said(message):
                yield f"round {closing.round}: {row.client}'s row differs from its update"
            elif closing.version - row.version > evidence.story.config["staleness"]["max"]:
                yield f"round {closing.round}: {row.client}'s update is too old to count"


def _said(message: Message) -> tuple[str, int, int, str]:
    header = message.header
    return header["client"], header["version"], header["examples"], message.head


def _answers(story: Story, order: Order, message: Message) -> bool:
    """Whether a message is a whole, undamaged answer to this order in this run."""
    header = message.header
    fields = ("id", "work", "client", "round", "version", "digest", "turn")
    same = all(header.get(name) == getattr(order, name) for name in fields)
    return same and header["run"] == story.run and header["sha256"] == message.sha256


def _counted_once(evidence: Evidence) -> Iterator[str]:
    """No order is counted twice; in rounds mode no client twice in one round."""
    story = evidence.story
    ids = Counter(row.id for closing in story.closings for row in closing.rows)
    yield from (f"order {id_} is counted {times} times" for id_, times in ids.items() if times > 1)
    if story.config["federation"]["mode"] == "buffered":
        return
    for closing in story.closings:
        clients = Counter(row.client for row in closing.rows)
        for client, times in clients.items():
            if times > 1:
                yield f"round {closing.round} counts {client} {times} times"


def _chain(evidence: Evidence) -> Iterator[str]:
    """Each version's parent is the one before it."""
    parent, number = "", -1
    for made in evidence.story.versions:
        if (made.parent, made.version) != (parent, number + 1):
            yield f"version {made.version} comes after {number}, and its parent is not that version's digest"
        parent, number = made.digest, made.version


def _tasks(evidence: Evidence) -> Iterator[str]:
    """Each version's round task is in the log, and its bytes have the digest that the journal says."""
    for made in evidence.story.versions:
        task = evidence.tasks.get(made.digest)
        if task is None:
            yield f"version {made.version} has no round task"
        elif digest_of(task.header["layout"], task.payload) != made.digest:
            yield f"the round task of version {made.version} has another digest than it says"
        elif task.header["version"] != made.version or task.header["run"] != evidence.story.run:
            yield f"the round task of version {made.version} says it is another's"


def _outcome(evidence: Evidence, message: Message) -> tuple[str, str]:
    """What became of an update, and what is wrong with that."""
    story, header = evidence.story, message.header
    order = story.orders.get(header.get("id", ""))
    if order is None or not _answers(story, order, message):
        return "not asked for", ""
    if header["error"]:
        return "failure", ""
    if order.work == "evaluate":
        return "evaluation", ""
    counted = _counted(story, order.id)
    if counted is not None:
        return ("counted" if counted.key == message.key else "duplicate"), ""
    if message.last <= order.after:
        return "before its order", ""
    closing = next((closing for closing in story.closings if closing.decided >= message.last), None)
    if closing is None:
        return "after the end", ""
    if _too_late(story, closing, order):
        return "late", ""
    return "lost", f"the update of {order.client} at offset {message.starts[0]} was never counted"


def _counted(story: Story, id_: str) -> Counted | None:
    rows = (row for closing in story.closings for row in closing.rows)
    return next((row for row in rows if row.id == id_), None)


def _too_late(story: Story, closing: Closing, order: Order) -> bool:
    """Whether the round that read an update could not count it: too old, or its client has a better one."""
    if closing.version - order.version > story.config["staleness"]["max"] or closing.skipped:
        return True
    rounds_mode = story.config["federation"]["mode"] == "rounds"
    return rounds_mode and any(row.client == order.client for row in closing.rows)


def _sums(evidence: Evidence) -> Iterator[str]:
    """A closing's counts are those of the messages that became whole since the one before.

    A message that lies there twice may be judged twice, and one that a dead worker left unfinished is
    refused if anything of it comes later. One from before the last closing may have been given up with it.
    """
    before = -1
    results = evidence.results
    unfinished = len(results.unfinished) + len(results.torn) + len(results.malformed)
    for closing in evidence.story.closings:
        there = [m for m in results.messages if before < m.last <= closing.decided]
        again = [offset for m in results.messages for offset in m.starts[1:]]
        least = sum(m.starts[0] > before for m in there)
        most = len(there) + sum(before < offset <= closing.decided for offset in again) + unfinished
        # What an operator let in had its verdict before, and is among the accepted once more.
        said = sum(closing.counts.values()) - 2 * closing.counts["readmitted"]
        if not least <= said <= most:
            yield f"round {closing.round} gave {said} verdicts on {least} to {most} messages"
        if closing.counts["accepted"] != len(closing.rows):
            yield f"round {closing.round} counts {closing.counts['accepted']} and lists {len(closing.rows)}"
        before = closing.decided


def _recomputed(evidence: Evidence) -> Iterator[str]:
    """Makes every version again of its parent and its updates: a complaint for each, "" if it is the same."""
    story = evidence.story
    for made in story.versions:
        closing = story.closings[made.closing]
        messages = [evidence.updates.get(row.key) for row in closing.rows]
        base = evidence.tasks.get(made.parent)
        if None in messages or (base is None and made.version):
            yield f"version {made.version} can't be made again: the logs lack what it was made of"
            continue
        if base is None:
            first = messages[0]
            layout, payload = first.header["layout"], first.payload
        else:
            layout = base.header["layout"]
            behind = [closing.version - row.version for row in closing.rows]
            updates = [
                Update(row.client, row.version, row.id, late, row.examples, message.payload)
                for row, late, message in zip(closing.rows, behind, messages, strict=True)
            ]
            payload = next_model(layout, base.payload, updates, story.config)
        same = digest_of(layout, payload) == made.digest
        yield "" if same else f"version {made.version}, made again, has other bits"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("federation")
    parser.add_argument("broker", help="an AMQP URL, or an embedded broker's folder")
    parser.add_argument("--journal", type=Path, help="writes the entries that count, as JSON lines")
    options = parser.parse_args()
    found = check(read(options.federation, options.broker))
    if options.journal is not None:
        options.journal.write_text("".join(f"{json.dumps(e.to_json())}\n" for e in found.story.entries))
    print(
        f"{len(found.story.versions)} versions, {found.recomputed} made again, "
        f"changes of leader after {dict(found.story.changes)}, updates: {dict(found.outcomes)}"
    )
    for sentence in found.wrong:
        print(f"WRONG: {sentence}")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
