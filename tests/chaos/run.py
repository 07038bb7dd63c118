"""One federation from its start to its end, with or without kills."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pika.exceptions import AMQPError

from tests.chaos.check import Findings, check
from tests.chaos.crew import Crew, CrewFailed
from tests.chaos.logs import read
from tests.chaos.monkey import Monkey
from tests.chaos.plan import Kill
from tests.chaos.services import Phoenix
from tests.chaos.setting import Setting
from tests.chaos.tail import Tail
from tests.chaos.wire import listing

#: How often it looks what there is to kill, and who is to be started again.
LOOK_S = 0.002


@dataclass
class Run:
    """What came of a federation. `wrong`: a sentence for each thing that should not have happened."""

    setting: Setting
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    findings: Findings | None = None

    @property
    def digest(self) -> str:
        """The last version's."""
        return self.findings.story.digest if self.findings is not None else ""


def run(setting: Setting, services: Mapping[str, Phoenix], plan: Sequence[Kill], deadline_s: float) -> Run:
    """Runs a federation while its processes and services are killed as planned, and judges its logs.

    The last round waits until all kills are done.
    """
    made = Run(setting)
    began = time.monotonic()
    with Crew(setting) as crew, Tail(setting.name, setting.broker) as tail:
        monkey = Monkey(plan, crew, tail, services, setting)
        try:
            while not crew.tend():
                if time.monotonic() - began > deadline_s:
                    raise CrewFailed(f"the federation is not done after {deadline_s:g} s")
                monkey.look()
                if monkey.is_done:
                    setting.gate.touch()
                tail.news.wait(LOOK_S)
                tail.news.clear()
        except CrewFailed as error:
            made.wrong.append(str(error))
        made.seconds = time.monotonic() - began
        made.kills = monkey.done
        made.wrong += [f"{name} showed a traceback" for name in crew.tracebacks()]
    for service in services.values():
        service.wait()
    if not monkey.is_done:
        made.wrong.append(f"only {made.kills.total()} of {len(plan)} kills found their time")
    _judge(made)
    return made


def _judge(made: Run) -> None:
    """Reads the logs; if they are not as promised, they are kept as lists beside the processes' words."""
    setting = made.setting
    try:
        logs = read(setting.name, setting.broker)
    except (AMQPError, OSError, RuntimeError) as error:
        made.wrong.append(f"the logs can't be read: {type(error).__name__}: {error}")
        return
    made.findings = check(logs)
    made.wrong += made.findings.wrong
    if made.wrong:
        for name, parts in vars(logs).items():
            lines = [json.dumps(row, default=str) for row in listing(parts)]
            (setting.folder / f"{name}.jsonl").write_text("\n".join(lines))


def verify(setting: Setting) -> list[str]:
    """What `warren verify` complains of."""
    command = [sys.executable, "-m", "coordinator", "verify", setting.toml, "--broker", setting.broker]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    return [f"warren verify: {done.stdout}{done.stderr}"] if done.returncode else []
