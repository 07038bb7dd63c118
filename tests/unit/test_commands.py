"""The commands' entry points, without a broker."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from coordinator.__main__ import main as warren
from worker.__main__ import main as warren_worker


@pytest.mark.parametrize(("main", "module"), [(warren, "coordinator.cli"), (warren_worker, "worker.cli")])
def test_ctrl_c_while_the_modules_are_read_ends_with_130(
    main: Callable[[], None], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(name: str) -> object:
        raise KeyboardInterrupt if name == "app" else AttributeError(name)

    reading = ModuleType(module)
    monkeypatch.setattr(reading, "__getattr__", interrupt, raising=False)
    monkeypatch.setitem(sys.modules, module, reading)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
