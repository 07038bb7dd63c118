"""What the RabbitMQ adapter uses of its client library, as types, and how answers become ours.

Everything here belongs to the thread of one connection (see `_link.py`), except `Loop`'s
`add_callback_threadsafe`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from shared.broker.port import Part
from shared.errors import (
    BrokerError,
    BrokerUnreachable,
    NotDeclaredError,
    OtherArgumentsError,
    RefusedError,
    WarrenError,
)
from shared.weights import Buffer

Callback = Callable[..., None]

#: What to do, by a piece of the broker's answer.
_ADVICE = {
    "inequivalent arg": "delete it, or give the federation another name",
    "user_id": "publish under the name that this login has",
    "message size": "use smaller parts",
    "refused for user": "check this login's permissions",
    "is down or inaccessible": "wait until that node is up; if it is, it lost the queue (RabbitMQ 3.10 does, "
    "if it is killed within a second of making one): take another federation's name, or another vhost",
    "no exchange": "start the coordinator, which declares it, or check the federation's name",
    "no queue": "start the coordinator, which declares it, or check the federation's name",
    "invalid arg": "follow streams, and consume the others",
}


class Loop(Protocol):
    """An I/O loop; it may be started again after a stop."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...
    def process_timeouts(self) -> None: ...
    def call_later(self, delay: float, callback: Callable[[], None]) -> object: ...
    def remove_timeout(self, timeout_handle: object) -> None: ...
    def add_callback_threadsafe(self, callback: Callable[[], None]) -> None: ...


class Channel(Protocol):
    """A channel; a request without a callback is one that the broker doesn't answer."""

    @property
    def is_open(self) -> bool: ...
    def close(self) -> None: ...
    def add_on_close_callback(self, callback: Callback) -> None: ...
    def add_on_cancel_callback(self, callback: Callback) -> None: ...
    def add_on_return_callback(self, callback: Callback) -> None: ...
    def confirm_delivery(self, ack_nack_callback: Callback, callback: Callback) -> None: ...
    def basic_publish(
        self, exchange: str, routing_key: str, body: bytes, properties: Any, mandatory: bool
    ) -> None: ...
    def _send_method(self, method: Any, content: tuple[Any, Buffer]) -> None: ...
    def basic_qos(self, *, prefetch_count: int, callback: Callback | None = None) -> None: ...
    def basic_consume(
        self,
        queue: str,
        on_message_callback: Callback,
        auto_ack: bool = False,
        *,
        arguments: Mapping[str, object] | None = None,
        callback: Callback,
    ) -> str: ...
    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None: ...
    def basic_nack(self, delivery_tag: int, *, requeue: bool) -> None: ...
    def exchange_declare(self, exchange: str, exchange_type: str, *, durable: bool) -> None: ...
    def exchange_delete(self, exchange: str) -> None: ...
    def queue_declare(
        self,
        queue: str,
        *,
        passive: bool = False,
        durable: bool = False,
        arguments: Mapping[str, object] | None = None,
    ) -> None: ...
    def queue_bind(self, queue: str, exchange: str, routing_key: str) -> None: ...
    def queue_delete(self, queue: str) -> None: ...


class Connection(Protocol):
    """A connection; `abort` ends it at once, without the broker's consent. What is sent in `together` goes
    out when that ends, at once and as if in one piece."""

    @property
    def is_open(self) -> bool: ...
    def together(self) -> AbstractContextManager[None]: ...
    def abort(self, why: str) -> None: ...
    def close(self) -> None: ...
    def channel(self, *, on_open_callback: Callback) -> object: ...
    def add_on_connection_blocked_callback(self, callback: Callback) -> None: ...
    def add_on_connection_unblocked_callback(self, callback: Callback) -> None: ...


def part_of(properties: Any, body: bytes | memoryview, offset: int = -1) -> Part:
    """A part as it came. What its headers don't say, or say in other types, is filled in for a reader's
    own check to judge.
    """
    headers = headers_of(properties)
    return Part(
        message_id=_text(properties.message_id),
        kind=_text(properties.type),
        part=_number(headers.get("part"), 0),
        parts=_number(headers.get("parts"), 1),
        nbytes=_number(headers.get("bytes"), len(body)),
        crc32=_number(headers.get("crc32"), 0),
        body=body,
        user_id=_text(properties.user_id),
        offset=offset,
    )


def headers_of(properties: Any) -> Mapping[str, object]:
    """A delivery's headers."""
    return properties.headers if isinstance(properties.headers, dict) else {}


def number(headers: Mapping[str, object], key: str, default: int) -> int:
    """A header that should be a number."""
    return _number(headers.get(key), default)


def code_of(reason: BaseException) -> int:
    """The broker's reply code for a closed channel, or 0."""
    return int(getattr(reason, "reply_code", 0))


def text_of(reason: BaseException) -> str:
    """The broker's words for a closed channel, without the code's name in front."""
    text = str(getattr(reason, "reply_text", "")) or str(reason) or type(reason).__name__
    return text.partition(" - ")[2] or text


def is_down(reason: BaseException) -> bool:
    """Whether a channel was closed since a queue is there, and can't be used now."""
    return code_of(reason) == 404 and "is down or inaccessible" in text_of(reason)


def refusal_of(reason: BaseException) -> BrokerError | None:
    """The error for a channel that the broker closed for good cause; None where a retry may help."""
    text = text_of(reason)
    other = "inequivalent arg" in text
    advice = next((advice for piece, advice in _ADVICE.items() if piece in text), "check names and settings")
    match code_of(reason):
        case 404:
            return NotDeclaredError(f"the broker finds {text}: {advice}")
        case 403 | 405 | 406:
            return (OtherArgumentsError if other else RefusedError)(f"the broker refuses: {text}: {advice}")
    return None


def why_not(error: BaseException, where: str, user: str, vhost: str) -> WarrenError:
    """The error for a connection that couldn't be opened."""
    words = words_of(error)
    if "(403)" in words:
        return RefusedError(f"the broker at {where} refuses the login {user!r}: check name and password")
    if "(530)" in words:
        return RefusedError(
            f"the broker at {where} refuses the vhost {vhost!r}: check its name and permissions"
        )
    if isinstance(_root(error), ssl.SSLCertVerificationError):
        return RefusedError(f"the broker's certificate at {where} isn't trusted ({words}): check its CA")
    return BrokerUnreachable(f"no broker answers at {where} ({words}): start it, or check the address")


def words_of(error: BaseException) -> str:
    """What an error says, without the wrappings that the client library puts around it."""
    root = _root(error)
    return str(getattr(root, "strerror", None) or root or type(root).__name__)


def _root(error: BaseException) -> BaseException:
    inner = [*getattr(error, "exceptions", ())[-1:], getattr(error, "exception", None), *error.args[:1]]
    return next((_root(each) for each in inner if isinstance(each, BaseException)), error)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object, default: int) -> int:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else default
