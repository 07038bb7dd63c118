"""Somebody who may publish results and presence, and publishes what no honest worker would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from shared import codec
from shared.broker.port import FIRST, Delivery, Part, Publication, new_id
from shared.errors import BrokerError, MessageError
from shared.messages import Update, order_id
from tests.simulation.broker import SimBroker
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

#: What it publishes for each part that it reads that is not its own, at most.
MOST = 3
#: Clients that may be there.
CLIENTS = ("a/0", "a/1", "b/0", "b/1", "c/0", "d/0")


class Vandal:
    """Reads the results log, and publishes what it read once more: whole, in part, or changed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = Random(world.rng.random())
        self._login = self._rng.choice(world.scenario.sites).name
        self._process = Process(world.scheduler, "vandal")
        self._own: set[str] = set()
        self._broker = SimBroker(
            world.server, self._process, self._login, self._rng, world.lags, atomic=world.scenario.atomic
        )

    def begin(self) -> None:
        self._process.start(self._run, "main")

    def _run(self) -> None:
        inbox = self._process.inbox()
        self._broker.follow(self._world.topology.results_log, FIRST, inbox.put)
        while not self._world.faults.is_calm:
            delivery: Delivery = inbox.get()
            delivery.ack()
            if delivery.part.message_id not in self._own:
                for _ in range(self._rng.randint(0, MOST)):
                    self._publish(self._rng.choice(TRICKS)(delivery.part, self._rng))

    def _publish(self, part: Part) -> None:
        self._own.add(part.message_id)
        topology = self._world.topology
        exchange = self._rng.choice((topology.results, topology.results, topology.presence))
        try:
            self._broker.publish([Publication(exchange, self._login, part)])
        except BrokerError:
            return


def _again(part: Part, _rng: Random) -> Part:
    return part


def _as_new(part: Part, _rng: Random) -> Part:
    return replace(part, message_id=new_id())


def _garbage(part: Part, rng: Random) -> Part:
    return Part.single(part.kind, rng.randbytes(rng.randint(0, 200)))


def _bent(part: Part, rng: Random) -> Part:
    """The same with a byte changed, and a checksum that fits."""
    body = bytearray(part.body)
    if body:
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    return replace(part, message_id=new_id(), body=bytes(body))


def _begun(part: Part, rng: Random) -> Part:
    """The begin of a message whose rest never comes."""
    return replace(part, message_id=new_id(), parts=part.parts + 1, nbytes=part.nbytes + rng.randint(1, 500))


def _claiming(change: Callable[[dict[str, Any], Random], None]) -> Callable[[Part, Random], Part]:
    """The same update, whose header says something else."""

    def trick(part: Part, rng: Random) -> Part:
        try:
            header, payload = codec.decode(part.body)
        except MessageError:
            return part
        if part.parts > 1 or header.get("kind") != Update.KIND:
            return _as_new(part, rng)
        change(header, rng)
        return codec.split(part.kind, header, payload)[0]

    return trick


def _other_client(header: dict[str, Any], rng: Random) -> None:
    header["client"] = rng.choice((*CLIENTS, "z/9"))


def _for_another(header: dict[str, Any], rng: Random) -> None:
    """An answer to an order of another client's, in its name: where logins aren't attested it may count."""
    header["client"] = rng.choice(CLIENTS)
    _other_id(header, rng, header["client"])


def _other_id(header: dict[str, Any], rng: Random, client: str = "") -> None:
    """An answer that claims to be to another client's order."""
    work, number, digest, turn = (header[name] for name in ("work", "round", "digest", "turn"))
    header["id"] = order_id(work, client or rng.choice(CLIENTS), number, digest, turn)


def _failure_of_another(header: dict[str, Any], rng: Random) -> None:
    _for_another(header, rng)
    _failure(header, rng)


def _other_turn(header: dict[str, Any], rng: Random) -> None:
    header["turn"] += rng.randint(1, 3)


def _failure(header: dict[str, Any], rng: Random) -> None:
    header["error"] = "the dog ate it"


TRICKS = (
    _again,
    _as_new,
    _garbage,
    _bent,
    _begun,
    *map(
        _claiming,
        (_other_client, _for_another, _other_id, _other_turn, _failure, _failure_of_another),
    ),
)
