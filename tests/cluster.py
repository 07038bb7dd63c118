"""A RabbitMQ cluster of the tests' own: three nodes that know each other, on loopback."""

from __future__ import annotations

from tests.services import RabbitNode, wait_for

SIZE = 3
#: How long a node may take to be back with all that it has copies of.
BACK_S = 120.0


class Cluster:
    """Nodes that are killed and started one by one. `stop` removes all of them."""

    def __init__(self) -> None:
        first = RabbitNode("warren-1")
        self.nodes = [first, *(RabbitNode(f"warren-{number}", first) for number in range(2, SIZE + 1))]

    @property
    def url(self) -> str:
        """Where clients connect: all hosts."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"amqp://guest:guest@{hosts}/%2F"

    def start(self) -> None:
        """Starts the nodes one after another: each joins when it is up."""
        try:
            for node in self.nodes:
                node.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        # The first one's port mapper is everybody's.
        for node in reversed(self.nodes):
            node.stop()

    def leader_of(self, queue: str) -> RabbitNode:
        """The node that leads a queue or stream."""
        (leader,) = (leader for name, leader in self._queues("leader") if name == queue)
        return next(node for node in self.nodes if node.node == leader)

    def wait_until_whole(self) -> None:
        """Waits until every queue has all its copies running."""
        wait_for(self._is_whole, BACK_S, "all copies of all queues")

    def _is_whole(self) -> bool:
        members = self._queues("members")
        return bool(members) and members == self._queues("online")

    def _queues(self, column: str) -> list[tuple[str, ...]]:
        rows = self.nodes[0].ctl("list_queues", "name", column).splitlines()[1:]
        return [_sorted(row) for row in rows]


def _sorted(row: str) -> tuple[str, ...]:
    name, _, value = row.partition("\t")
    return name, ", ".join(sorted(value.strip("[]").split(", ")))
