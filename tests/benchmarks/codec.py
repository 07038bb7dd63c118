"""Messages to parts and back: how fast, and how often their bytes are copied."""

from __future__ import annotations

import hashlib
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from shared import codec
from shared.broker.port import Part
from shared.messages import RoundTask
from shared.weights import Layout, Weights, digest_of
from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import significant, spread
from tests.benchmarks.machine import in_turn
from tests.benchmarks.report import Section, Table

SIZES = (4_000, 4_000_000, 100_000_000)
TITLE = "Codec"
NOTES = [
    "*encode* makes a round task's parts, *decode* puts them together and gives its arrays; the bytes are "
    "the payload's, once. Both take a CRC-32 of each part, which is shown beside them, with a copy of the "
    "same bytes, and the SHA-256 that a version's digest takes. *copies* is the peak of what was allocated "
    "meanwhile (tracemalloc), in payloads and in kB; *shares memory* says whether what comes out lies where "
    "what went in did. What arrives in several parts is put together in one new buffer.",
]


def measure(bench: Bench, section: Section) -> None:
    speeds = Table("GB/s: median (10th to 90th)", ["what", *(f"{size:,} B" for size in SIZES)])
    copies = Table("Copies", ["what", *(f"{size:,} B" for size in SIZES)])
    columns = []
    for size in SIZES:
        bench.say(f"codec: {size:,} bytes")
        columns.append((speeds_of(size, bench.quick), copies_of(size)))
    for name in columns[0][0]:
        speeds.rows.append([name, *(spread(fast[name]).text(1e9) for fast, _ in columns)])
    for name in columns[0][1]:
        copies.rows.append([name, *(copied[name] for _, copied in columns)])
    section.tables = [speeds, copies]
    for size, (fast, _) in zip(SIZES, columns, strict=True):
        section.figures |= {f"{name} {size} GB/s": spread(each).median / 1e9 for name, each in fast.items()}


def speeds_of(size: int, quick: bool) -> dict[str, list[float]]:
    """Bytes a second by what was done in turn."""
    weights = model(size)
    parts = encode(weights)
    times = 200 if size < 1_000_000 else 5 if quick else 15
    calls: dict[str, Callable[[], object]] = {
        "encode": partial(encode, weights),
        "decode": partial(decode, parts),
        "CRC-32": partial(zlib.crc32, weights.payload),
        "copy": partial(bytes, weights.payload),
        "SHA-256": lambda: hashlib.sha256(weights.payload).hexdigest(),
        "digest": partial(digest_of, weights.layout, weights.payload),
    }
    return {name: [size / each for each in values] for name, values in in_turn(calls, times).items()}


def copies_of(size: int) -> dict[str, str]:
    weights = model(size)
    parts = encode(weights)
    last = np.frombuffer(parts[-1].body, np.uint8)
    out = decode(parts)["w"]
    return {
        "encode: copies": in_payloads(allocated(partial(encode, weights)), size),
        "encode: shares memory": yes(np.shares_memory(last, np.frombuffer(weights.payload, np.uint8))),
        "decode: copies": in_payloads(allocated(partial(decode, parts)), size),
        "decode: shares memory": yes(np.shares_memory(last, out)),
        "parts": str(len(parts)),
    }


def model(size: int) -> Weights:
    return Weights.from_arrays({"w": np.random.default_rng(1).random(size // 4).astype(np.float32)})


def encode(weights: Weights) -> list[Part]:
    task = RoundTask("bench", "run", 0, 0, "0" * 64, weights.layout.to_wire())
    return codec.split(RoundTask.KIND, task.to_header(), weights.payload)


def decode(parts: list[Part]) -> dict[str, Any]:
    assembler = codec.Assembler(1 << 30)
    whole = None
    for part in parts:
        whole = assembler.feed(part)
    assert whole is not None
    return Layout.from_wire(RoundTask.from_header(whole[0]).layout).views(whole[1])


def allocated(call: Callable[[], object]) -> int:
    """The peak of what a call allocates, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def in_payloads(nbytes: int, size: int) -> str:
    return f"{nbytes / size:.2f} ({significant(nbytes / 1e3)} kB)"


def yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
