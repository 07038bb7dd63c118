"""A site that sends what it never learnt."""

from __future__ import annotations

from worker.trainers.softmax import SoftmaxRegression


class Lying(SoftmaxRegression):
    """Sends ten times the opposite of what it learnt."""

    def __init__(self, notes="", **params):
        super().__init__(**params)

    def fit(self, weights, data, config, seed):
        made, examples, metrics = super().fit(weights, data, config, seed)
        return (
            {name: weights[name] - 10 * (array - weights[name]) for name, array in made.items()},
            examples,
            metrics,
        )
