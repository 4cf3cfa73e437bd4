"""What the comparisons begin from, made once."""

from __future__ import annotations

import pytest

from tests.parity.side_by_side import Start, make_start
from tests.tiny_world import World


@pytest.fixture(scope="session")
def start(world: World, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """The language model and the reward model of both sides."""
    return make_start(world, tmp_path_factory.mktemp("scorer"))
