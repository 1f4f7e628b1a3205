"""What the tests of stores share."""

import pytest

from tests.models import build


@pytest.fixture
def teacher():
    return build("vit", seed=1)
