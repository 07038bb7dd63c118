"""The federation's TOML, typed and checked. See the README for every key; here are their types and bounds."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from math import floor, isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from coordinator.facts import Rules, config_digest
from coordinator.mistakes import sentence
from coordinator.overrides import override
from coordinator.selection import Selection
from coordinator.units import BYTES, SECONDS, measured
from shared.errors import ConfigError
from shared.messages import Scalar
from shared.topology import Limits

Slug = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
Origin = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}/[A-Za-z0-9]+@[0-9]+:[0-9a-f]{64}$")]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _setting(value: object) -> object:
    """Says once what a union would say for each of its types."""
    if not isinstance(value, bool | int | float | str):
        raise ValueError("take a number, a text, true or false")
    if isinstance(value, float) and not isfinite(value):
        raise ValueError("take a finite number")
    return value


Setting = Annotated[Scalar, BeforeValidator(_setting)]


class Table(BaseModel):
    """A TOML table: no key that isn't known, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Federation(Table):
    name: Slug
    rounds: Count = 10
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    mode: Literal["rounds", "buffered"] = "rounds"
    forked_from: Origin | None = None


class Model(Table):
    initial: str = "site"


class Cohort(Table):
    select: Literal["all", "random"] = "all"
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    size: Count | None = None
    minimum: Count = 1
    target: Count | None = None
    over_select: Annotated[float, Field(ge=1)] = 1.0
    deadline_s: Positive = 60.0
    on_missing: Literal["wait", "skip", "stop"] = "wait"
    min_clients: Count = 1
    absent_s: Positive = 60.0

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        random = self.select == "random"
        if random and (self.fraction is None) == (self.size is None):
            raise ValueError('select = "random" takes either fraction or size')
        if not random and (self.fraction is not None or self.size is not None):
            raise ValueError('fraction and size go with select = "random"')
        if self.target is not None and self.target < self.minimum:
            raise ValueError(
                f"target ({self.target}) is below minimum ({self.minimum}): no round could close on it"
            )
        if self.size is not None and self.size < self.minimum:
            raise ValueError(f"size ({self.size}) is below minimum ({self.minimum}): no round could close")
        return self


class Buffered(Table):
    concurrency: Count = 8
    buffer: Count = 4
    normalise: Literal["count", "weights"] = "count"


class Staleness(Table):
    max: Annotated[int, Field(ge=0)] = 0
    discount: Literal["constant", "polynomial", "hinge"] = "polynomial"
    exponent: Annotated[float, Field(ge=0)] = 0.5
    a: Positive = 10.0
    b: Annotated[int, Field(ge=0)] = 4


class Aggregation(Table):
    rule: Literal["mean", "median", "trimmed-mean"] = "mean"
    trim: Annotated[float, Field(ge=0, lt=0.5)] | None = None

    @model_validator(mode="after")
    def _trim(self) -> Self:
        if self.trim is not None and self.rule != "trimmed-mean":
            raise ValueError('trim goes with rule = "trimmed-mean"')
        return self


class Server(Table):
    optimizer: Literal["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"] = "fedavg"
    learning_rate: Positive = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    beta1: Annotated[float, Field(ge=0, lt=1)] | None = None
    beta2: Annotated[float, Field(ge=0, lt=1)] | None = None
    tau: Positive | None = None


class Evaluation(Table):
    each_round: bool = True
    last: bool = True
    sites: Annotated[tuple[Slug, ...], Field(strict=False)] = ()
    best: str = "accuracy"


class Log(Table):
    """What each log keeps, in bytes and seconds once it is read, and on how many nodes of a cluster."""

    max_bytes: Annotated[int, measured(BYTES, "20GB"), Field(ge=10**6, lt=2**60)] = 20 * 10**9
    max_age: Annotated[int, measured(SECONDS, "30d"), Field(ge=1, lt=2**40)] = 30 * 86_400
    copies: Literal[1, 3, 5] = 1


class Security(Table):
    attest: bool = False


class LocalSite(Table):
    name: Slug
    data: str
    workers: Count = 1
    trainer: str | None = None
    params: dict[str, Any] | None = None


class Local(Table):
    trainer: str = ""
    params: dict[str, Any] = {}
    sites: Annotated[tuple[LocalSite, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [site.name for site in self.sites]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"site {sorted(twice)[0]!r} stands twice")
        for site in self.sites:
            if not (site.trainer or self.trainer):
                raise ValueError(f"site {site.name!r} has no trainer: name one in [local] or at the site")
        return self


class Config(Table):
    """One federation. `local` describes processes here and is no part of the digest."""

    federation: Federation
    model: Model = Model()
    training: dict[str, Setting] = {}
    cohort: Cohort = Cohort()
    buffered: Buffered = Buffered()
    staleness: Staleness = Staleness()
    aggregation: Aggregation = Aggregation()
    server: Server = Server()
    evaluation: Evaluation = Evaluation()
    log: Log = Log()
    security: Security = Security()
    local: Local = Local()

    @model_validator(mode="after")
    def _ages(self) -> Self:
        least = self.cohort.deadline_s * (self.staleness.max + 2)
        if self.log.max_age <= least:
            raise ValueError(
                f"log.max_age is {self.log.max_age} s, and the rounds of one update can take {least:g} "
                f'(cohort.deadline_s × (staleness.max + 2)): set it to at least "{floor(least) + 1}s"'
            )
        return self

    @property
    def name(self) -> str:
        return self.federation.name

    def binding(self) -> dict[str, Any]:
        """What every run of the federation must agree on."""
        return self.model_dump(mode="json", exclude={"local"}, exclude_none=True)

    def digest(self) -> str:
        """SHA-256, in hex, of the binding part."""
        return config_digest(self.binding())

    def normalise(self) -> Literal["count", "weights"]:
        """How weights become a mean: by example counts in rounds; in buffered mode as the table says."""
        return self.buffered.normalise if self.federation.mode == "buffered" else "weights"

    def limits(self) -> Limits:
        """What the logs at the broker keep."""
        return Limits(self.log.max_bytes, self.log.max_age)

    def assignment_expiry_s(self) -> float:
        return self.cohort.deadline_s * (self.staleness.max + 1)

    def rules(self) -> Rules:
        """The part that decides, for the state machine."""
        cohort = self.cohort
        return Rules(
            seed=self.federation.seed,
            rounds=self.federation.rounds,
            buffered=self.federation.mode == "buffered",
            selection=Selection(cohort.fraction, cohort.size, cohort.over_select),
            minimum=cohort.minimum,
            target=cohort.target,
            deadline_s=cohort.deadline_s,
            on_missing=cohort.on_missing,
            min_clients=max(cohort.min_clients, cohort.minimum),
            absent_s=cohort.absent_s,
            concurrency=self.buffered.concurrency,
            buffer=self.buffered.buffer,
            max_staleness=self.staleness.max,
            initial_from_site=self.model.initial == "site",
            evaluators=frozenset(self.evaluation.sites),
            evaluate_last=self.evaluation.last,
            attest=self.security.attest,
        )


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a TOML file; `overrides` are `table.key=value`. Paths in it become relative to its folder.

    Raises:
        ConfigError: the file is missing or malformed, or a key is wrong; the sentence names it.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}: name a federation's TOML file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder: name a federation's TOML file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    for text in overrides:
        override(raw, text)
    return _rooted(parse(raw, str(path)), path.parent)


def parse(raw: Mapping[str, Any], source: str) -> Config:
    """The configuration in a parsed TOML document.

    Raises:
        ConfigError: the first thing that is wrong, in one sentence.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{source}: {sentence(error, Config)}") from None


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys in which two configurations differ."""
    found: list[str] = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}")
    return found


def _rooted(config: Config, folder: Path) -> Config:
    """Paths in the file are relative to its folder; modules are not paths."""

    def rooted(text: str) -> str:
        path, colon, name = text.partition(":")
        if Path(path).is_absolute() or (colon and not path.endswith(".py")):
            return text
        return f"{(folder / path).resolve()}{colon}{name}"

    def site(given: LocalSite) -> LocalSite:
        trainer = rooted(given.trainer) if given.trainer else given.trainer
        return given.model_copy(update={"data": rooted(given.data), "trainer": trainer})

    local = config.local
    trainer = rooted(local.trainer) if local.trainer else ""
    update: dict[str, Any] = {
        "local": local.model_copy(update={"trainer": trainer, "sites": tuple(map(site, local.sites))})
    }
    if config.model.initial != "site":
        update["model"] = config.model.model_copy(update={"initial": rooted(config.model.initial)})
    return config.model_copy(update=update)
