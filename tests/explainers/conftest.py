"""What the tests of explainers share."""

import pytest

from tests.explainers.attention import PIXELS
from tests.text_models import TEXT, build_text, token_batch


@pytest.fixture
def model_of(tiny):
    """`model_of("bert")`: a tiny model of a family, of text or of images, and a batch for it."""

    def build(name):
        return (build_text(name), token_batch()) if name in TEXT else (tiny(name), PIXELS)

    return build
