"""From a URL or a folder to a broker. An adapter is imported only when it is asked for."""

from __future__ import annotations

import threading
from pathlib import Path

from shared.broker.port import Broker
from shared.errors import ConfigError


def connect(
    url: str, login: str, *, patience_s: float | None = None, stop: threading.Event | None = None
) -> Broker:
    """The broker at `amqp://…`, `amqps://…`, or in a folder (embedded), where `login` is who we are.

    At RabbitMQ the login is the URL's user. `patience_s`: how long to wait for a broker that does not
    answer at first (None: as long as it takes); later outages are waited out.

    Raises:
        ConfigError: the URL is of no known kind.
        BrokerUnreachable: nothing answers in time.
    """
    scheme, separator, rest = url.partition("://")
    if scheme in ("amqp", "amqps") and separator:
        from shared.broker import rabbit

        return rabbit.connect(url, patience_s=patience_s, persist=True, stop=stop)
    if separator and scheme != "file":
        raise ConfigError(
            f"a broker URL of kind {scheme}:// is unknown: give amqp://…, amqps://… or a folder"
        )
    from shared.broker import embedded

    return embedded.connect(Path(rest if separator else url), login, stop)
