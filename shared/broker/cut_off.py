"""How an operator shuts a login out of a broker: commands for a shell at the broker's machine."""

from __future__ import annotations

import shlex
from urllib.parse import unquote, urlsplit


def cut_off(url: str, login: str) -> list[str]:
    """The commands that end what a login does at the broker of that URL, or in that folder.

    What came without a login (RabbitMQ lets its publishers leave it out) is traced first: its connection is
    the one that the broker received most on. The commands are the same for RabbitMQ 3.10 to 4.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "file":
        return [f"end the process that writes as {login!r} to the folder of the broker"]
    if not login:
        return ["rabbitmqctl list_connections user peer_host recv_oct"]
    vhost = shlex.quote(unquote(urlsplit(url).path.removeprefix("/")) or "/")
    name = shlex.quote(login)
    return [
        f"rabbitmqctl set_permissions -p {vhost} {name} '^$' '^$' '^$'",
        f"rabbitmqctl close_all_user_connections {name} 'it floods the results log'",
    ]
