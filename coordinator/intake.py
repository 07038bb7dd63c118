"""From a whole message of the results log to an `Answer`: everything that its bytes alone can tell."""

from __future__ import annotations

from dataclasses import replace

from coordinator.aggregation import check_model, finite, moderate
from coordinator.facts import Answer
from coordinator.spool import Arrival, Broken
from coordinator.validation import ABSURDLY_LARGE
from shared.errors import MessageError
from shared.messages import MAX_REASON_CHARS, Update
from shared.weights import Buffer, Layout

#: A metric beyond that is no measure of a model (and NaN is none at all).
MAX_METRIC = 1e30
MAX_NAME_CHARS = 100


def broken(message: Broken) -> Answer:
    """The answer that a message would have been: nothing is known but where it lay and why it can't be."""
    sender, message_id = message.key
    return Answer("", "", "", 0, 0, "", 0, message.offset, message_id, sender, refusal=plain(message.reason))


def claimed(update: Update, offset: int, sender: str, message_id: str) -> Answer:
    """What a header alone says of itself."""
    return Answer(
        id=update.id,
        work=update.work,
        client=plain(update.client),
        round=update.round,
        version=update.version,
        digest=update.digest,
        turn=update.turn,
        offset=offset,
        message_id=message_id,
        sender=sender,
        examples=update.examples,
        metrics=_sane(update.metrics),
        evaluated=max(update.evaluated, 0),
        evaluation=_sane(update.evaluation),
        error=plain(update.error),
    )


def answer_of(
    arrival: Arrival,
    payload: Buffer,
    federation: str,
    run: str,
    model: Layout | None,
    *,
    lenient: bool = False,
) -> tuple[Answer, Layout | None]:
    """Reads and checks a message; also returns the layout of an initialise answer's weights.

    `lenient`: values may be of any size, as long as they are numbers.
    """
    sender, message_id = arrival.key
    update = arrival.update
    forged = _forged(update, arrival, federation, run)
    layout, refusal = (None, forged) if forged else _checked(update, payload, model, lenient)
    answer = replace(
        claimed(update, arrival.first, sender, message_id),
        nbytes=arrival.nbytes,
        head=arrival.head,
        refusal=plain(refusal),
        forged=bool(forged),
    )
    return answer, layout if update.work == "initialise" else None


def plain(text: str) -> str:
    """A site's words as the journal can hold and a terminal can show them. A client's name stays as it is."""
    return "".join(char if char.isprintable() else "?" for char in text[:MAX_REASON_CHARS])


def _forged(update: Update, arrival: Arrival, federation: str, run: str) -> str:
    """Why it can't be what a worker answered here, "" if it can."""
    if update.federation != federation or update.run != run:
        return "it belongs to another run of the federation"
    if update.sha256 != arrival.sha256:
        return "its payload does not have the SHA-256 that it claims"
    return ""


def _checked(
    update: Update, payload: Buffer, model: Layout | None, lenient: bool
) -> tuple[Layout | None, str]:
    """The payload's layout, and why the update can't count ("" if it can)."""
    if update.error or update.work == "evaluate":
        return None, "" if not len(payload) else "it has a payload where none belongs"
    try:
        layout = _layout(update, model)
    except MessageError as error:
        return None, str(error)
    if len(payload) != layout.nbytes:
        return None, f"its payload has {len(payload)} bytes, the layout {layout.nbytes}"
    return layout, _extreme(layout, payload, lenient)


def _extreme(layout: Layout, payload: Buffer, lenient: bool) -> str:
    """What is wrong with the values, "" if nothing."""
    large = moderate(layout, payload)
    if large is None:
        return ""
    if bad := finite(layout, payload):
        return f"tensor {bad!r} holds values that are not finite"
    return "" if lenient else f"tensor {large!r} holds values that are {ABSURDLY_LARGE}"


def _layout(update: Update, model: Layout | None) -> Layout:
    if update.work == "initialise":
        layout = Layout.from_wire(update.layout)
        check_model(layout)
        return layout
    if model is None or update.layout_digest != model.digest:
        raise MessageError("its tensors have another layout than the model's")
    return model


def _sane(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that a mean can be made of, and that a terminal can show."""
    return {
        name[:MAX_NAME_CHARS]: value
        for name, value in metrics.items()
        if abs(value) <= MAX_METRIC and name.isprintable()
    }
