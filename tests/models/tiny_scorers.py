"""Tiny reward models: the bodies of ``tiny_models`` with a score head so large that context changes the score."""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers as tf

from tests.models import tiny_models


def scorer(name: str, **config: Any) -> Any:
    """The architecture's sequence classification model with one label, body and head drawn from fixed seeds."""
    causal: Any = getattr(tiny_models, name)()
    settings = copy.deepcopy(causal.config)
    settings.num_labels = 1
    settings.update(config)
    built: Any = tf.AutoModelForSequenceClassification.from_config(settings)
    built.base_model.load_state_dict(causal.base_model.state_dict())
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        built.score.weight.copy_(torch.randn(built.score.weight.shape, generator=draw))
    return built.eval()
