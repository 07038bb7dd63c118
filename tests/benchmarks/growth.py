"""How time and memory grow with rounds, clients and parameters, as exponents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.benchmarks.bench import RABBIT, Bench
from tests.benchmarks.federation import Shape, warren
from tests.benchmarks.figures import exponent, significant, spread
from tests.benchmarks.machine import anonymous
from tests.benchmarks.report import Section, Table

#: Rounds in all, and in a block whose median is a point; of the quick run and of the whole one.
ROUNDS = {True: (100, 10), False: (1_000, 50)}
CLIENTS = {True: (10, 100), False: (10, 30, 100, 300, 1_000)}
PARAMETERS = {True: (1_000, 1_000_000), False: (1_000, 10_000, 100_000, 1_000_000, 10_000_000)}
FEW, SMALL = 4, 1_000
REPEATED = 5
TITLE = "Growth"
NOTES = [
    "value = c · size^e, fitted by least squares on logarithms; e = 0: it doesn't grow, 1: it grows in "
    "proportion. *all* is over all sizes, *last* between the two largest: a small federation's round is "
    "latency, which hides what grows. Rounds are those of 2 clients with 1,000 parameters; clients have "
    f"{SMALL:,} parameters, at most ten workers; parameters are those of {FEW} clients. Memory is RssAnon of "
    "the coordinator after the rounds.",
]


def measure(bench: Bench, section: Section) -> None:
    section.tables.append(by_rounds(bench, section))
    for what, sizes, shape in (
        ("clients", CLIENTS[bench.quick], lambda size: Shape(size, SMALL)),
        ("parameters", PARAMETERS[bench.quick], lambda size: Shape(FEW, size)),
    ):
        section.tables.append(by_size(bench, section, what, sizes, shape))


def by_rounds(bench: Bench, section: Section) -> Table:
    """A row a broker: the medians of the first, the middle and the last block."""
    rounds, block = ROUNDS[bench.quick]
    count = rounds // block
    heads = ["broker", *(f"{1 + n * block} to {(n + 1) * block}" for n in (0, count // 2, count - 1))]
    table = Table(
        f"By rounds: milliseconds of round 1 to {rounds:,}", [*heads, "e", "memory MB", "bytes a round"]
    )
    for broker in bench.brokers:
        bench.say(f"growth: {rounds:,} rounds, {broker}")
        blocks, memory = [], []
        with warren(bench, broker, Shape(2, SMALL)) as federation:
            memory.append(anonymous(federation.lead.pid))
            for _ in range(count):
                blocks.append(federation.turn(block))
                memory.append(anonymous(federation.lead.pid))
        medians = [spread(seconds).median for seconds in blocks]
        middles = [(number + 0.5) * block for number in range(count)]
        e, growth = exponent(middles, medians), (memory[-1] - memory[1]) / (rounds - block)
        cells = [blocks[n] for n in (0, count // 2, count - 1)]
        mb = f"{memory[1] / 1e6:.1f} to {memory[-1] / 1e6:.1f}"
        times = [spread(seconds).text(1e-3) for seconds in cells]
        table.rows.append([broker, *times, f"{e:.2f}", mb, significant(growth)])
        section.figures |= {f"{broker} rounds e": e, f"{broker} bytes a round": growth}
        section.figures[f"{broker} block medians s"] = medians
    return table


def by_size(
    bench: Bench, section: Section, what: str, sizes: Sequence[int], shape: Callable[[int], Shape]
) -> Table:
    """A row a size, and one with the exponents; over RabbitMQ."""
    table = Table(f"By {what}, {RABBIT}", [what, "rounds", "round ms", "memory MB"])
    seconds, memory = [], []
    for size in sizes:
        bench.say(f"growth: {size:,} {what}")
        with warren(bench, RABBIT, shape(size)) as federation:
            series = federation.turn(REPEATED)
            memory.append(anonymous(federation.lead.pid))
        seconds.append(spread(series).median)
        cells = [str(len(series)), spread(series).text(1e-3), f"{memory[-1] / 1e6:.1f}"]
        table.rows.append([f"{size:,}", *cells])
    for name, first in (("all", 0), ("last", -2)):
        exponents = [exponent(sizes[first:], values[first:]) for values in (seconds, memory)]
        table.rows.append([f"e, {name}", "", *(f"{e:.2f}" for e in exponents)])
        section.figures |= {f"{what} e {name}": exponents[0], f"{what} memory e {name}": exponents[1]}
    return table
