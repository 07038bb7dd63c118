"""Services and small helpers for every ring of tests. A service starts when the first test asks for it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from tests import services
from tests.services import RabbitNode, RedisServer, Service, ServiceFailed, ServiceMissing

AnyService = TypeVar("AnyService", bound=Service)


@contextmanager
def _running(service: AnyService) -> Iterator[AnyService]:
    """Fails with one sentence when the service can't be had: a missing broker is no reason to skip."""
    try:
        service.start()
    except (ServiceMissing, ServiceFailed) as error:
        pytest.fail(str(error), pytrace=False)
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def rabbit_node() -> Iterator[RabbitNode]:
    """The node that all tests share: never kill it, and name things after `federation`."""
    with _running(RabbitNode()) as node:
        yield node


@pytest.fixture(scope="session")
def rabbit_url(rabbit_node: RabbitNode) -> str:
    return rabbit_node.url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The server that all tests share: never kill or empty it, and name things after `federation`."""
    with _running(RedisServer()) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


@pytest.fixture
def own_rabbit_node() -> Iterator[RabbitNode]:
    """A node for one test to kill and start again; costs some seconds."""
    with _running(RabbitNode()) as node:
        yield node


@pytest.fixture
def own_redis_server() -> Iterator[RedisServer]:
    """A server for one test to kill and start again."""
    with _running(RedisServer()) as server:
        yield server


@pytest.fixture
def federation() -> str:
    """A federation's name that no other test has."""
    return f"f-{secrets.token_hex(4)}"


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    """`wait_for(condition, timeout_s=10, what="…")` polls until the condition holds and returns its value."""
    return services.wait_for


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was not tried is said loudly: nothing is skipped in silence."""
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.write_line(f"!!! {report.nodeid}: {reason}", yellow=True, bold=True)
