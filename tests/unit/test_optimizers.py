"""Server optimisers against vectors computed from the papers' definitions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from coordinator.optimizers import OPTIMIZERS, Block, ServerOptimizer, create, make
from shared.errors import ConfigError, FederationFailed
from shared.weights import Layout, Weights

DELTAS = (1.0, 0.5, -0.25)
LAYOUT = Layout.of([("w", "float32", (3, 2)), ("seen", "int64", ()), ("h", "float16", (4,))])


def trace(optimizer: ServerOptimizer, v0: float | None = None) -> list[float]:
    """Where x goes from 0 under the deltas; `v0` in place of the optimiser's own start of v."""
    x: Block = np.zeros(1)
    slots = {name: np.full(1, start) for name, start in optimizer.slots.items()}
    if v0 is not None:
        slots["v"][:] = v0
    seen = []
    for delta in DELTAS:
        optimizer.step(x, np.array([delta]), slots, np.empty(1))
        seen.append(float(x[0]))
    return seen


@pytest.mark.parametrize(
    ("name", "params", "v0", "expected"),
    [
        ("fedadagrad", {"beta1": 0.0}, 0.0, [0.099900, 0.144581, 0.122779]),
        ("fedadam", {"beta1": 0.9}, 0.0, [0.099010, 0.223615, 0.311761]),
        ("fedadam", {"beta1": 0.9}, None, [0.099005, 0.223605, 0.311748]),
        ("fedyogi", {"beta1": 0.9}, None, [0.099005, 0.223110, 0.310504]),
        ("fedyogi", {"beta1": 0.9}, 0.0, [0.099010, 0.223120, 0.310517]),
    ],
)
def test_adaptive_vectors(
    name: str, params: dict[str, float], v0: float | None, expected: list[float]
) -> None:
    optimizer = create(name, learning_rate=0.1, tau=1e-3, **params)
    assert trace(optimizer, v0) == pytest.approx(expected, abs=5.1e-7)


def test_momentum_vector() -> None:
    assert trace(create("fedavgm")) == pytest.approx([1.0, 2.4, 3.41], abs=1e-12)


def test_fedavg_adds_the_deltas() -> None:
    assert trace(create("fedavg")) == [1.0, 1.5, 1.25]
    assert trace(create("fedavg", learning_rate=0.5)) == [0.5, 0.75, 0.625]


def test_adagrad_with_momentum_keeps_the_momentum() -> None:
    plain, heavy = create("fedadagrad"), create("fedadagrad", beta1=0.9)
    assert list(plain.slots) == ["v"]
    assert list(heavy.slots) == ["m", "v"]
    # By hand: m = .1, then .14; v = 1 + τ², then 1.25 + τ².
    first = 0.1 / (np.sqrt(1 + 1e-6) + 1e-3)
    assert trace(heavy)[:2] == pytest.approx([first, first + 0.14 / (np.sqrt(1.25 + 1e-6) + 1e-3)], abs=1e-12)


def test_no_momentum_is_plain_averaging() -> None:
    assert trace(create("fedavgm", momentum=0.0)) == trace(create("fedavg"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_block_is_stepped_like_its_elements(name: str) -> None:
    optimizer = create(name, learning_rate=0.3)
    rng = np.random.default_rng(5)
    x, delta = rng.standard_normal((2, 50))
    slots = {slot: rng.random(50) for slot in optimizer.slots}
    one_by_one = [_stepped(optimizer, x, delta, slots, slice(i, i + 1)) for i in range(50)]
    whole = _stepped(optimizer, x, delta, slots, slice(None))
    assert np.concatenate(one_by_one, axis=1).tobytes() == whole.tobytes()


def _stepped(
    optimizer: ServerOptimizer, x: Block, delta: Block, slots: dict[str, Block], place: slice
) -> Block:
    """The new values and slots of a part of the elements, as rows."""
    x, mine = x[place].copy(), {name: slot[place].copy() for name, slot in slots.items()}
    optimizer.step(x, delta[place].copy(), mine, np.empty(x.size))
    return np.stack([x, *mine.values()])


def test_slots_start_at_zero_and_tau_squared_for_every_float_element() -> None:
    state = create("fedyogi", tau=0.5).initial_state(LAYOUT)
    assert {name: (slot.dtype.name, slot.tolist()) for name, slot in state.items()} == {
        "m": ("float32", [0.0] * 10),
        "v": ("float32", [0.25] * 10),
    }
    assert create("fedavg").initial_state(LAYOUT) == {}


def test_slots_of_a_float64_model_are_float64() -> None:
    layout = Layout.of([("a", "float32", (2,)), ("b", "float64", (1,))])
    assert create("fedavgm").initial_state(layout)["m"].dtype == np.float64


def test_a_state_survives_as_a_message_payload() -> None:
    optimizer = create("fedadam")
    state = optimizer.initial_state(LAYOUT)
    stored = Weights.from_arrays(state)
    restored = Weights(Layout.from_wire(stored.layout.to_wire()), bytes(stored.payload)).arrays
    optimizer.check_state(LAYOUT, restored)
    assert {name: slot.tobytes() for name, slot in restored.items()} == {
        name: slot.tobytes() for name, slot in state.items()
    }


@pytest.mark.parametrize("other", ["fedavg", "fedavgm", "fedadagrad"])
def test_a_state_of_another_optimiser_or_model_is_refused(other: str) -> None:
    adam = create("fedadam")
    with pytest.raises(FederationFailed, match="another model or optimiser"):
        adam.check_state(LAYOUT, create(other).initial_state(LAYOUT))
    with pytest.raises(FederationFailed, match="another model or optimiser"):
        adam.check_state(LAYOUT, adam.initial_state(Layout.of([("w", "float32", (9,))])))


def test_defaults() -> None:
    assert vars(create("fedavgm")) == {"learning_rate": 1.0, "momentum": 0.9}
    assert vars(create("fedadagrad")) == {"learning_rate": 1.0, "beta1": 0.0, "tau": 1e-3}
    adaptive = {"learning_rate": 1.0, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}
    assert vars(create("fedadam")) == vars(create("fedyogi")) == adaptive


def test_unknown_names_and_parameters_are_named() -> None:
    with pytest.raises(ConfigError, match="'adam' is not known; known are fedavg, fedavgm"):
        create("adam")
    with pytest.raises(
        ConfigError, match="'fedadam' takes no 'momentum', but learning_rate, beta1, tau, beta2"
    ):
        create("fedadam", momentum=0.9)


@dataclass
class Server:
    """A `[server]` table."""

    optimizer: str
    learning_rate: float = 1.0
    momentum: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    tau: float | None = None


def test_settings_that_are_not_set_are_the_defaults() -> None:
    assert make(Server("fedadam", 0.01, tau=1e-8)) == create("fedadam", learning_rate=0.01, tau=1e-8)
    assert make(Server("fedadagrad", beta1=0.0)) == create("fedadagrad")
    with pytest.raises(ConfigError, match="'fedavg' takes no 'momentum'"):
        make(Server("fedavg", momentum=0.9))
