"""The ready-made trainers: gradients, identities of federated averaging, and what they refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from worker.trainers.mlp import MultilayerPerceptron
from worker.trainers.sgd import Classifier, Settings
from worker.trainers.softmax import SoftmaxRegression

Arrays = dict[str, np.ndarray]


def make_data(rows: int, features: int, classes: int, seed: int = 0) -> Arrays:
    """Gaussian clouds, one a class, that overlap a little."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    centres = np.random.default_rng(99).normal(0, 2, (classes, features))
    return {"x": (centres[y] + rng.normal(size=(rows, features))).astype(np.float32), "y": y}


def in_float64(weights: Mapping[str, np.ndarray]) -> Arrays:
    return {name: value.astype(np.float64) for name, value in weights.items()}


def loss_of(trainer: Classifier, weights: Arrays, data: Arrays) -> float:
    return trainer.evaluate(weights, data)[1]["loss"]


def distance(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum((one[name] - other[name]) ** 2) for name in one)))


TRAINERS = [
    SoftmaxRegression(features=6, classes=2, init="uniform"),
    SoftmaxRegression(features=6, classes=4, init="uniform"),
    MultilayerPerceptron(features=6, classes=2, hidden=[5]),
    MultilayerPerceptron(features=6, classes=4, hidden=[7, 5]),
    MultilayerPerceptron(features=6, classes=3, hidden=[]),
]
each_trainer = pytest.mark.parametrize(
    "trainer", TRAINERS, ids=lambda t: f"{type(t).__name__}-{t.classes}-{len(t.shapes())}"
)


@each_trainer
def test_gradient_is_that_of_finite_differences(trainer: Classifier) -> None:
    data = make_data(9, 6, trainer.classes)
    x = data["x"].astype(np.float64)
    weights = in_float64(trainer.initial_weights(seed=3))
    gradient = {name: np.zeros_like(value) for name, value in weights.items()}
    trainer.gradients(weights, x, data["y"], gradient)
    for name, value in weights.items():
        for place in np.ndindex(value.shape):
            before = value[place]
            value[place] = before + 1e-6
            above = loss_of(trainer, weights, data)
            value[place] = before - 1e-6
            below = loss_of(trainer, weights, data)
            value[place] = before
            assert gradient[name][place] == pytest.approx((above - below) / 2e-6, abs=2e-8, rel=1e-5)


@each_trainer
def test_one_epoch_of_one_batch_averaged_is_one_step_on_the_pooled_data(trainer: Classifier) -> None:
    """FedAvg with E=1, B=∞ and all clients is gradient descent on everybody's data."""
    sites = [make_data(rows, 6, trainer.classes, seed=rows) for rows in (5, 17, 40)]
    pooled = {name: np.concatenate([site[name] for site in sites]) for name in ("x", "y")}
    base = in_float64(trainer.initial_weights(seed=1))
    config = {"epochs": 1, "batch_size": "all", "learning_rate": 0.5}
    answers = [trainer.fit(base, site, config, seed=number) for number, site in enumerate(sites)]
    total = sum(examples for _, examples, _ in answers)
    assert total == 62
    stepped = trainer.fit(base, pooled, config, seed=9)[0]
    assert distance(stepped, base) > 0.01
    for name in base:
        mean = base[name] + sum(n / total * (local[name] - base[name]) for local, n, _ in answers)
        np.testing.assert_allclose(mean, stepped[name], atol=1e-12)


def test_the_same_identity_in_float32() -> None:
    trainer = MultilayerPerceptron(features=6, classes=4, hidden=[20])
    sites = [make_data(rows, 6, 4, seed=rows) for rows in (30, 50)]
    pooled = {name: np.concatenate([site[name] for site in sites]) for name in ("x", "y")}
    base = trainer.initial_weights(seed=1)
    config = {"epochs": 1, "batch_size": 0, "learning_rate": 0.1}
    (one, n, _), (two, m, _) = (trainer.fit(base, site, config, seed=0) for site in sites)
    stepped = trainer.fit(base, pooled, config, seed=0)[0]
    for name in base:
        assert stepped[name].dtype == np.float32
        mean = base[name] + (n * (one[name] - base[name]) + m * (two[name] - base[name])) / (n + m)
        np.testing.assert_allclose(mean, stepped[name], atol=1e-6)


def test_two_layers_of_200_have_the_papers_number_of_parameters() -> None:
    weights = MultilayerPerceptron(features=784, classes=10).initial_weights(seed=0)
    assert sum(value.size for value in weights.values()) == 199_210
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}


def test_two_classes_are_one_logit() -> None:
    weights = SoftmaxRegression(features=13).initial_weights(seed=0)
    assert sum(value.size for value in weights.values()) == 14
    assert not any(value.any() for value in weights.values())


def test_a_sigmoid_step_is_the_textbooks() -> None:
    """From zeros every p is ½, so the step is −η · mean((½ − y) x)."""
    data = make_data(13, 3, 2)
    trainer = SoftmaxRegression(features=3)
    config = {"batch_size": 0, "learning_rate": 0.2}
    local = trainer.fit(trainer.initial_weights(0), data, config, seed=0)[0]
    slope = 0.5 - data["y"]
    np.testing.assert_allclose(local["weight"][:, 0], -0.2 * (slope @ data["x"]) / 13, rtol=1e-5)
    assert slope.mean() != 0
    np.testing.assert_allclose(local["bias"], [-0.2 * slope.mean()], rtol=1e-5)


def test_uniform_init_stays_in_its_bounds_and_follows_the_seed() -> None:
    trainer = SoftmaxRegression(features=16, classes=5, init="uniform")
    weights = trainer.initial_weights(seed=4)
    flat = np.concatenate([value.ravel() for value in weights.values()])
    assert np.abs(flat).max() <= 0.25
    assert np.abs(flat).max() > 0.2
    assert weights["bias"].any()
    assert distance(weights, trainer.initial_weights(seed=4)) == 0
    assert distance(weights, trainer.initial_weights(seed=5)) > 0


@each_trainer
def test_training_learns(trainer: Classifier) -> None:
    data = make_data(300, 6, trainer.classes)
    base = trainer.initial_weights(seed=0)
    local, examples, metrics = trainer.fit(base, data, {"epochs": 20, "batch_size": 16}, seed=0)
    assert examples == 300
    rows, after = trainer.evaluate(local, data)
    assert rows == 300
    assert after["accuracy"] > 0.9
    assert after["loss"] < 0.5 * loss_of(trainer, base, data)
    # The training's own metrics are means over all its batches, the bad early ones too.
    assert after["loss"] < metrics["loss"] < loss_of(trainer, base, data)
    assert trainer.evaluate(base, data)[1]["accuracy"] < metrics["accuracy"]


def test_training_metrics_are_those_before_the_step() -> None:
    data = make_data(40, 6, 4)
    trainer = SoftmaxRegression(features=6, classes=4, init="uniform")
    base = trainer.initial_weights(seed=0)
    metrics = trainer.fit(base, data, {"batch_size": 0}, seed=0)[2]
    assert metrics == pytest.approx(trainer.evaluate(base, data)[1], rel=1e-6)


def test_same_inputs_give_the_same_bits_and_other_seeds_others() -> None:
    data = make_data(100, 6, 4)
    trainer = MultilayerPerceptron(features=6, classes=4, hidden=[8])
    base = trainer.initial_weights(seed=0)
    config = {"epochs": 2, "batch_size": 8, "momentum": 0.9, "l2": 0.01, "mu": 0.1, "learning_rate": 0.05}
    one, again, other = (trainer.fit(base, data, config, seed)[0] for seed in (1, 1, 2))
    for name in base:
        assert one[name].tobytes() == again[name].tobytes()
    assert distance(one, other) > 0


def test_received_weights_and_data_stay_as_they_are() -> None:
    data = make_data(50, 6, 4)
    trainer = MultilayerPerceptron(features=6, classes=4, hidden=[8])
    base = trainer.initial_weights(seed=0)
    before = {name: value.copy() for name, value in (base | data).items()}
    for value in (base | data).values():
        value.setflags(write=False)
    local = trainer.fit(base, data, {"epochs": 3, "momentum": 0.5, "mu": 0.1}, seed=0)[0]
    for name, value in (base | data).items():
        np.testing.assert_array_equal(value, before[name])
    assert not any(np.shares_memory(local[name], base[name]) for name in base)


def test_no_proximal_term_is_fedavg_and_a_strong_one_stays_near() -> None:
    data = make_data(200, 6, 4)
    trainer = SoftmaxRegression(features=6, classes=4)
    base = trainer.initial_weights(seed=0)
    config = {"epochs": 10, "batch_size": 10, "learning_rate": 0.05}
    free = trainer.fit(base, data, config, seed=0)[0]
    zero = trainer.fit(base, data, {**config, "mu": 0}, seed=0)[0]
    assert distance(free, zero) == 0
    held = [distance(trainer.fit(base, data, {**config, "mu": mu}, seed=0)[0], base) for mu in (0.1, 1, 15)]
    assert distance(free, base) > held[0] > held[1] > 5 * held[2] > 0


def test_proximal_term_pulls_towards_the_received_weights() -> None:
    """Two full steps: the first has no pull, the second one of μ times what the first did."""
    data = make_data(30, 6, 4)
    trainer = SoftmaxRegression(features=6, classes=4, init="uniform")
    base = in_float64(trainer.initial_weights(seed=0))
    config = {"batch_size": 0, "learning_rate": 0.1}
    first = trainer.fit(base, data, {**config, "steps": 1, "mu": 0.5}, seed=0)[0]
    free = trainer.fit(base, data, {**config, "steps": 2}, seed=0)[0]
    held = trainer.fit(base, data, {**config, "steps": 2, "mu": 0.5}, seed=0)[0]
    for name in base:
        np.testing.assert_allclose(held[name], free[name] - 0.1 * 0.5 * (first[name] - base[name]))


def test_momentum_adds_up() -> None:
    """Two steps with momentum: the second goes by the new gradient and by m times the first step."""
    data = make_data(30, 6, 4)
    trainer = SoftmaxRegression(features=6, classes=4, init="uniform")
    base = in_float64(trainer.initial_weights(seed=0))
    config = {"batch_size": 0, "learning_rate": 0.1}
    first = trainer.fit(base, data, {**config, "steps": 1}, seed=0)[0]
    plain = trainer.fit(first, data, {**config, "steps": 1}, seed=0)[0]
    both = trainer.fit(base, data, {**config, "steps": 2, "momentum": 0.9}, seed=0)[0]
    for name in base:
        np.testing.assert_allclose(both[name], plain[name] + 0.9 * (first[name] - base[name]))


def test_l2_decays_all_parameters() -> None:
    data = make_data(30, 6, 4)
    trainer = SoftmaxRegression(features=6, classes=4, init="uniform")
    base = in_float64(trainer.initial_weights(seed=0))
    config = {"batch_size": 0, "learning_rate": 0.1}
    plain = trainer.fit(base, data, config, seed=0)[0]
    decayed = trainer.fit(base, data, {**config, "l2": 0.3}, seed=0)[0]
    for name in base:
        np.testing.assert_allclose(decayed[name], plain[name] - 0.1 * 0.3 * base[name])


def test_steps_count_batches_across_epochs() -> None:
    data = make_data(50, 6, 4)
    trainer = SoftmaxRegression(features=6, classes=4)
    base = trainer.initial_weights(seed=0)

    def trained(**config: Any) -> Arrays:
        return trainer.fit(base, data, {"batch_size": 20, **config}, seed=0)[0]

    assert Settings.of({"batch_size": 20, "epochs": 2}).steps_over(50) == 6
    assert distance(trained(epochs=2), trained(steps=6)) == 0
    assert distance(trained(epochs=1), trained(steps=4)) > 0
    assert distance(trained(epochs=1), trained()) == 0


def test_an_epoch_sees_each_row_once() -> None:
    """With one feature per row and no overlap, each row's own weight moves by its own step, once."""
    data = {"x": np.eye(7, dtype=np.float32), "y": np.zeros(7, np.int64)}
    trainer = SoftmaxRegression(features=7)
    local = trainer.fit(trainer.initial_weights(0), data, {"batch_size": 1, "learning_rate": 1e-3}, seed=0)[0]
    np.testing.assert_allclose(local["weight"][:, 0], -0.5e-3, rtol=1e-2)


def test_evaluation_takes_the_test_rows_where_there_are_some() -> None:
    data = make_data(50, 6, 4)
    trainer = SoftmaxRegression(features=6, classes=4)
    weights = trainer.fit(trainer.initial_weights(0), data, {"epochs": 30}, seed=0)[0]
    wrong = {**data, "x_test": data["x"][:8], "y_test": (data["y"][:8] + 1) % 4}
    assert trainer.evaluate(weights, data)[0] == 50
    assert trainer.evaluate(weights, data)[1]["accuracy"] > 0.9
    assert trainer.evaluate(weights, wrong)[0] == 8
    assert trainer.evaluate(weights, wrong)[1]["accuracy"] < 0.3


def test_evaluation_of_no_rows_has_no_metrics() -> None:
    data = {**make_data(5, 6, 4), "x_test": np.zeros((0, 6)), "y_test": np.zeros(0, int)}
    trainer = SoftmaxRegression(features=6, classes=4)
    assert trainer.evaluate(trainer.initial_weights(0), data) == (0, {})


def test_evaluation_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(50, 6, 4)
    trainer = SoftmaxRegression(features=6, classes=4, init="uniform")
    weights = trainer.initial_weights(0)
    whole = trainer.evaluate(weights, data)
    monkeypatch.setattr("worker.trainers.sgd.SCORED_ROWS", 7)
    assert trainer.evaluate(weights, data) == (50, pytest.approx(whole[1], rel=1e-6))


def test_images_are_taken_as_rows() -> None:
    data = make_data(20, 6, 2)
    images = {"x": data["x"].reshape(20, 2, 3), "y": data["y"]}
    trainer = SoftmaxRegression(features=6)
    base = trainer.initial_weights(0)
    assert distance(trainer.fit(base, images, {}, 0)[0], trainer.fit(base, data, {}, 0)[0]) == 0


def test_extreme_logits_give_finite_losses() -> None:
    data = {"x": np.array([[1e4], [-1e4]], np.float32), "y": np.array([0, 1])}
    for classes in (2, 3):
        trainer = SoftmaxRegression(features=1, classes=classes)
        weights = {name: np.ones_like(value) for name, value in trainer.initial_weights(0).items()}
        assert np.isfinite(loss_of(trainer, weights, data))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"batchsize": 4}, "key 'batchsize'"),
        ({"epochs": 1, "steps": 5}, "both epochs and steps"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"steps": True}, "steps is True"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"batch_size": "some"}, "batch_size is 'some'"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"momentum": 1}, "momentum is 1"),
        ({"mu": -0.1}, "mu is -0.1"),
        ({"l2": float("inf")}, "l2 is inf"),
    ],
)
def test_a_wrong_setting_is_named(config: dict[str, Any], said: str) -> None:
    trainer = SoftmaxRegression(features=6)
    with pytest.raises(ValueError, match=said):
        trainer.fit(trainer.initial_weights(0), make_data(10, 6, 2), config, seed=0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"x": np.zeros((4, 5)), "y": np.zeros(4)}, "'x' has 5 features, the trainer was made for 6"),
        ({"x": np.zeros((4, 6)), "y": np.full(4, 2)}, "'y' holds something else than the classes 0 to 1"),
        ({"x": np.zeros((4, 6)), "y": np.full(4, 0.5)}, "'y' holds something else"),
        ({"x": np.zeros((4, 6)), "y": np.full(4, np.nan)}, "'y' holds something else"),
        ({"x": np.zeros((4, 6)), "y": np.array(list("abcd"))}, "'y' holds something else"),
        ({"x": np.zeros((4, 6)), "y": np.zeros(3)}, "3 labels for 4 rows"),
        ({"x": np.zeros((4, 6))}, "no array 'y'"),
        ({"x": np.zeros((0, 6)), "y": np.zeros(0)}, "no rows"),
    ],
)
def test_data_that_do_not_fit_are_named(data: Arrays, said: str) -> None:
    trainer = SoftmaxRegression(features=6)
    with pytest.raises(ValueError, match=said):
        trainer.fit(trainer.initial_weights(0), data, {}, seed=0)


def test_other_models_weights_are_refused() -> None:
    trainer = SoftmaxRegression(features=6)
    other = SoftmaxRegression(features=7).initial_weights(0)
    with pytest.raises(ValueError, match="the model has the tensors"):
        trainer.fit(other, make_data(10, 6, 2), {}, seed=0)
    mixed = trainer.initial_weights(0) | {"bias": np.zeros(1)}
    with pytest.raises(ValueError, match="one float dtype"):
        trainer.evaluate(mixed, make_data(10, 6, 2))


def test_divergence_and_missing_values_are_told_apart() -> None:
    trainer = MultilayerPerceptron(features=6, classes=4, hidden=[8])
    base = trainer.initial_weights(0)
    data = make_data(50, 6, 4)
    with pytest.raises(ArithmeticError, match="smaller learning_rate"):
        trainer.fit(base, data, {"learning_rate": 1e12, "epochs": 5}, seed=0)
    data["x"][3, 2] = np.nan
    with pytest.raises(ArithmeticError, match="'x' holds values that are not finite"):
        trainer.fit(base, data, {}, seed=0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SoftmaxRegression(features=0), "features is 0"),
        (lambda: SoftmaxRegression(features=3, classes=1), "classes is 1"),
        (lambda: SoftmaxRegression(features=3, init="ones"), "init is 'ones'"),
        (lambda: MultilayerPerceptron(features=3, hidden="200"), "hidden is '200'"),
        (lambda: MultilayerPerceptron(features=3, hidden=[20, 0]), "hidden is"),
    ],
)
def test_a_wrong_parameter_is_named(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
