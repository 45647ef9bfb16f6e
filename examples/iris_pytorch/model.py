"""The network that `iris.tgz` carries: four measurements of a flower in, three class probabilities out."""

import torch
from torch import nn


class IrisClassifier(nn.Module):
    """A 4-10-10-3 network for rows of (sepal length, sepal width, petal length, petal width) in cm.

    The server hands `forward` the rows of the request as they came, so what they need first is done here:
    the mean and spread of the training data are part of the weights.
    """

    batchable = True  # each row's answer depends on that row alone: requests may share a call

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("spread", torch.ones(4))
        self.layers = nn.Sequential(
            nn.Linear(4, 10),
            nn.ReLU(),
            nn.Linear(10, 10),
            nn.ReLU(),
            nn.Linear(10, 3),
        )

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Return unscaled class scores; training wants these."""
        return self.layers((rows - self.mean) / self.spread)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return probabilities of setosa, versicolor and virginica, shape (batch, 3)."""
        return torch.softmax(self.logits(rows), dim=1)
