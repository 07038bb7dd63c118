"""Which federation a command is about, and where its broker, state and folder are."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from coordinator.config import Config, load
from coordinator.state.connect import connect as connect_state
from coordinator.state.port import StateStore
from shared.broker.connect import connect as connect_broker
from shared.broker.port import Broker
from shared.errors import ConfigError
from shared.topology import Topology

#: How long a person's command waits for a service that does not answer.
PATIENCE_S = 10.0


class Target:
    """A federation's places. A context: what was opened is closed at its end.

    `stop`, when set, ends waits for the broker.
    """

    def __init__(self, federation: str, folder: Path, broker_url: str, state_url: str) -> None:
        self.federation = federation
        self.folder = folder
        self.broker_url = broker_url
        self.state_url = state_url
        self.topology = Topology(federation)
        self.stop = threading.Event()
        self._broker: Broker | None = None
        self._store: StateStore | None = None

    @classmethod
    def of_run(cls, config: Config, out: Path | None, broker_url: str, state_url: str) -> Target:
        """Where a run of this configuration has its things.

        Raises:
            ConfigError: its logs shall have copies, in one folder.
        """
        folder = (out or Path("runs") / config.name).resolve()
        inside = str(folder / "log")
        target = cls(config.name, folder, broker_url or inside, state_url or inside)
        if target.embedded and config.log.copies > 1:
            raise ConfigError(
                f"log.copies is {config.log.copies}, and the embedded broker is one folder: set it to 1, or "
                f"name a cluster with --broker amqp://user:password@h1,h2,h3/vhost"
            )
        return target

    @classmethod
    def of_arguments(cls, place: Path | None, federation: str, broker_url: str, state_url: str) -> Target:
        """What a reading command's arguments name.

        Raises:
            ConfigError: they name nothing, or a folder without a run.
        """
        if place is not None and place.is_dir():
            file = place / "federation.toml"
            if not file.exists():
                raise ConfigError(f"{place} is no folder of a run: it has no federation.toml")
            # An embedded run has its log in the folder, whatever the environment says of others.
            if (place / "log" / "broker.db").exists():
                broker_url = state_url = ""
            elif not broker_url:
                raise ConfigError(f"the run of {place} was at a broker: give --broker (and --state) for it")
            return cls.of_run(load(file), place, broker_url, state_url)
        if place is not None and not place.exists():
            raise ConfigError(f"there is no {place}: name a run's folder, or a federation's TOML file")
        if place is not None:
            return cls.of_run(load(place), None, broker_url, state_url)
        if federation:
            return cls(federation, Path("runs") / federation, broker_url, state_url)
        raise ConfigError("name a run's folder, a TOML file, or --federation NAME with --broker and --state")

    @property
    def embedded(self) -> bool:
        """Whether the broker is a folder."""
        return "://" not in self.broker_url

    def broker(self, patience_s: float = PATIENCE_S) -> Broker:
        """The broker, connected on first use.

        Raises:
            ConfigError: it isn't named, or its folder isn't there.
            BrokerUnreachable: it does not answer within `patience_s`.
        """
        if self._broker is None:
            if not self.broker_url:
                _missing("--broker")
            if self.embedded and not Path(self.broker_url).exists():
                self._refuse_empty()
            self._broker = connect_broker(
                self.broker_url, "coordinator", patience_s=patience_s, stop=self.stop
            )
        return self._broker

    def create(self) -> None:
        """Makes the run's folder, the embedded broker's, and that of a state store beside the run."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for url in (self.broker_url, self.state_url):
                if "://" not in url:
                    Path(url).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the folder {error.filename} can't be made ({error.strerror}): name another"
            ) from None

    def store(self) -> StateStore:
        """The state store, connected on first use."""
        if self._store is None:
            if not self.state_url:
                _missing("--state")
            if "://" not in self.state_url and not Path(self.state_url).exists():
                self._refuse_empty()
            self._store = connect_state(self.state_url, self.federation)
        return self._store

    def _refuse_empty(self) -> None:
        raise ConfigError(
            f"there is no run of federation {self.federation!r} in {self.folder}: run it first, "
            f"name its folder, or give --broker and --state"
        )

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in (self._broker, self._store):
            if opened is not None:
                opened.close()


def _missing(option: str) -> str:
    raise ConfigError(f"{option} is missing: name the service, or a run's folder instead")
