"""A custom model without a framework: which of three growers made the wine, and what speaks for it.

Gaussian naive Bayes in numpy. For each class it holds the mean and variance of each measurement, so the
logarithm of a class's probability is a sum with one term per measurement: the explanation is exact.
"""

import asyncio
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
from sklearn.datasets import load_wine

import modelserver
from modelserver import InvalidInput

GROWERS = ("grower 0", "grower 1", "grower 2")


class WineModel(modelserver.Model):
    """Tells the grower of a wine from its chemical analysis."""

    def load(self) -> bool:
        wines = load_wine()  # 178 Italian wines, 13 measurements each
        self.measurements = wines.feature_names
        rows, growers = wines.data[::2], wines.target[::2]  # the other half is for trying it out
        groups = [rows[growers == number] for number in range(len(GROWERS))]
        self.means = np.stack([group.mean(axis=0) for group in groups])
        self.variances = np.stack([group.var(axis=0) for group in groups])
        self.log_priors = np.log([len(group) / len(rows) for group in groups])
        self.ready = True
        return True

    async def preprocess(
        self, payload: Any, headers: Mapping[str, str], response_headers: MutableMapping[str, str]
    ) -> np.ndarray:
        """Turn the instances into rows, shape (wines, 13); look up those that are only named.

        `async def`: while it waits for the look-ups, the server does other work. Here they read a file in a
        thread; they could as well ask a data base or another service.
        """
        response_headers["x-tasting"] = headers.get("x-tasting", "unnamed")
        instances = payload.get("instances") if isinstance(payload, dict) else None
        if not isinstance(instances, list) or not instances:
            raise InvalidInput('Expected {"instances": [...]} with at least one instance')
        rows = (self.row(instance, f'"instances"[{i}]') for i, instance in enumerate(instances))
        return np.array(await asyncio.gather(*rows))

    async def row(self, instance: Any, where: str) -> list[float]:
        """Return the 13 measurements of one instance: `{"wine": 17}`, or all of them by name."""
        match instance:
            case {"wine": int(number)}:
                wines, _ = await asyncio.to_thread(load_wine, return_X_y=True)
                if not 0 <= number < len(wines):
                    raise InvalidInput(f"{where}: there is no wine {number}, only 0 to {len(wines) - 1}")
                return wines[number].tolist()
            case dict():
                missing = [name for name in self.measurements if name not in instance]
                if missing:
                    raise InvalidInput(f"{where}: missing {', '.join(missing)}")
                try:
                    return [float(instance[name]) for name in self.measurements]
                except (TypeError, ValueError) as error:
                    raise InvalidInput(f"{where}: a measurement is not a number: {error}") from None
        raise InvalidInput(f'{where}: expected {{"wine": NUMBER}} or the measurements by name')

    def predict(self, rows: np.ndarray) -> dict[str, Any]:
        """Return the probability of each grower. `def`: runs on the model's own thread."""
        logs = self.terms(rows).sum(axis=2) + self.log_priors
        likelihoods = np.exp(logs - logs.max(axis=1, keepdims=True))
        return {"predictions": likelihoods / likelihoods.sum(axis=1, keepdims=True)}

    def explain(self, rows: np.ndarray) -> dict[str, Any]:
        """Return how much each measurement speaks for the best grower against the second best.

        `log_odds` is the sum of `prior` and of all `contributions`: nothing is left over.
        """
        terms = self.terms(rows)
        order = np.argsort(-(terms.sum(axis=2) + self.log_priors), axis=1)
        explanations = []
        for term, (best, second) in zip(terms, order[:, :2], strict=True):
            contributions = term[best] - term[second]
            prior = self.log_priors[best] - self.log_priors[second]
            explanations.append(
                {
                    "grower": GROWERS[best],
                    "rather_than": GROWERS[second],
                    "log_odds": prior + contributions.sum(),
                    "prior": prior,
                    "contributions": dict(zip(self.measurements, contributions, strict=True)),
                }
            )
        return {"explanations": explanations}

    async def postprocess(self, response: dict[str, Any]) -> dict[str, Any]:
        """Give the probabilities their names; explanations are ready as they are."""
        if "predictions" in response:
            probabilities = response["predictions"].tolist()
            response["predictions"] = [dict(zip(GROWERS, row, strict=True)) for row in probabilities]
        return response

    def terms(self, rows: np.ndarray) -> np.ndarray:
        """Return log p(measurement | grower), shape (wines, growers, measurements)."""
        distances = (rows[:, None, :] - self.means) ** 2 / self.variances
        return -0.5 * (distances + np.log(2 * np.pi * self.variances))


if __name__ == "__main__":
    model = WineModel("wine")
    model.load()
    modelserver.ModelServer().start([model])
