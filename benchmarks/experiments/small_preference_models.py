"""Two small models of preference for real text: a linear one, and a network that can learn single rows by heart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from preftune import losses
from preftune.audit.pair_features import FORMS, form_differences, word_differences
from preftune.data.records import Pair

Floats: TypeAlias = NDArray[np.float64]
Features: TypeAlias = Callable[[Sequence[Pair]], Floats]
Margins: TypeAlias = Callable[[Floats], Floats]
Learner: TypeAlias = Callable[[Floats, Floats, int], Margins]

TOPICS = 200  # dimensions that are made of words
PENALTY = 10.0  # scikit-learn's C: little, as in reward models that are trained to the end
WIDTH, EPOCHS, BATCH, RATE = 64, 20, 64, 3e-3


def linear(rows: Floats, rights: Floats, seed: int) -> Margins:
    """Logistic regression without intercept, like a reward model's head, on differences (pairs, columns).

    A label that is right with probability r counts r for it and 1 - r against.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=PENALTY, fit_intercept=False, max_iter=300)
    model.fit(np.vstack([rows, rows]), np.repeat([1, 0], len(rows)), sample_weight=np.concatenate([rights, 1 - rights]))
    return lambda others: others @ model.coef_[0]


def network(rows: Floats, rights: Floats, seed: int) -> Margins:
    """One hidden layer, trained by Bradley and Terry's loss with labels as soft as in ``linear``."""
    inputs = torch.from_numpy(rows.astype(np.float32))
    sure = torch.from_numpy(rights.astype(np.float32))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = OddNetwork(inputs.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    order = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(inputs), generator=order).split(BATCH):
            margins, nothing = model(inputs[batch]), torch.zeros(len(batch))
            right, wrong = losses.bradley_terry(margins, nothing), losses.bradley_terry(-margins, nothing)
            optimizer.zero_grad()
            (sure[batch] * right + (1 - sure[batch]) * wrong).mean().backward()
            optimizer.step()

    def margins_of(others: Floats) -> Floats:
        with torch.no_grad():
            return model(torch.from_numpy(others.astype(np.float32))).double().numpy()

    return margins_of


class OddNetwork(nn.Module):
    """From a difference to a margin that changes sign with it."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(columns, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))

    def forward(self, differences: Tensor) -> Tensor:
        return (self.layers(differences) - self.layers(-differences)).squeeze(1)


LEARNERS: Final[dict[str, Learner]] = {"linear": linear, "network": network}


def fitted_features(pairs: Sequence[Pair], seed: int) -> Features:
    """What makes (pairs, TOPICS + forms) of pairs: words in few dimensions and forms, scaled on these pairs."""
    from sklearn.decomposition import TruncatedSVD

    words = word_differences(pairs)
    used = np.unique(words.indices)
    topics = TruncatedSVD(min(TOPICS, len(pairs) - 1, len(used) - 1), random_state=seed).fit(words[:, used])
    scale = max(float(np.sqrt((topics.transform(words[:, used]) ** 2).sum(1).mean())), 1e-9)
    form_scale = np.maximum(np.sqrt((form_differences(pairs) ** 2).mean(0)), 1e-9) * np.sqrt(len(FORMS))
    return lambda some: np.hstack(
        [topics.transform(word_differences(some)[:, used]) / scale, form_differences(some) / form_scale]
    )
