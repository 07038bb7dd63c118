"""How many nodes of a RabbitMQ cluster run, by AMQP alone.

No client is told. But the address that a node makes up for answers to one of its connections has the node's
own mark in it; and a message that no queue takes comes back with that address.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from itertools import cycle, islice
from typing import Any

from shared.broker._amqp import Channel
from shared.broker._errand import Steps, finding, run
from shared.broker._link import Door, Link
from shared.errors import BrokerUnreachable, RefusedError, UnconfirmedError
from shared.topology import COPIES, Queue

#: The name under which a client asks for such an address.
REPLY_TO = "amq.rabbitmq.reply-to"
#: An Erlang process's number in its node, behind the node's name, in bytes.
PROCESS_BYTES = 12
#: How often a host is asked for each copy that is wanted: there may be several nodes behind it.
ASKED = 3


class Census:
    """Holds the copies that logs shall have against the nodes that run. Of threads that may wait.

    `new_link`: a link by one door alone, not yet started. `question`: properties with REPLY_TO as `reply_to`.
    """

    def __init__(self, doors: Sequence[Door], new_link: Callable[[Door], Link], question: Any) -> None:
        self._doors = doors
        self._new_link = new_link
        self._question = question
        self._counted = 1

    def check(self, queues: Iterable[Queue], link: Link) -> None:
        """Whether the logs that are to be made get their copies; those that have them may lack nodes for now.

        Raises:
            RefusedError: fewer nodes run.
        """
        for queue in queues:
            self._check(queue, int(queue.arguments.get(COPIES["stream"], 1)), link)

    def _check(self, log: Queue, copies: int, link: Link) -> None:
        if copies <= self._counted:
            return
        self._counted = self._count(copies, f"{log.exchange}.nodes")
        if self._counted < copies and not _is_there(log.name, link):
            hosts = ", ".join(door.where for door in self._doors)
            raise RefusedError(
                f"{log.name} is to have {copies} copies (log.copies), and only {self._counted} of the "
                f"broker's nodes answered at {hosts}: start the others, and name all their hosts in the URL"
            )

    def _count(self, wanted: int, exchange: str) -> int:
        nodes: set[bytes] = set()
        for door in islice(cycle(self._doors), ASKED * max(wanted, len(self._doors))):
            if len(nodes) >= wanted:
                break
            with suppress(BrokerUnreachable), closing(self._new_link(door)) as link:
                link.start()
                run(link, asking(exchange, self._question, nodes))
        return len(nodes)


def asking(exchange: str, question: Any, nodes: set[bytes]) -> Steps:
    """Adds the mark of the node that is asked; `exchange` is made for that, and removed."""

    def steps(channel: Channel) -> None:
        channel.add_on_return_callback(
            lambda _channel, _method, returned, _body: nodes.add(mark_in(returned))
        )
        channel.exchange_declare(exchange, "direct", durable=False)
        channel.basic_consume(REPLY_TO, lambda *_: None, True, callback=lambda _: None)
        channel.basic_publish(exchange, "", b"", question, True)
        channel.exchange_delete(exchange)

    return steps


def mark_in(properties: Any) -> bytes:
    """The node's mark in an address such as `amq.rabbitmq.reply-to.PROCESS.KEY`: a process in Erlang's
    external format, without its number in the node. An address of another form is a mark itself."""
    address = str(properties.reply_to)
    try:
        process = base64.b64decode(address.removeprefix(f"{REPLY_TO}.").partition(".")[0], validate=True)
    except binascii.Error:
        return address.encode()
    return process[:-PROCESS_BYTES]


def _is_there(queue: str, link: Link) -> bool:
    try:
        run(link, finding(queue))
    except UnconfirmedError:
        return False
    return True
