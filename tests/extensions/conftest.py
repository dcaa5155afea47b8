"""Names for the extensions, for the tests that need them and no others."""

import pytest

from tests.extensions.cases import names


@pytest.fixture
def registered():
    """The extensions have names for the duration of a test."""
    with names():
        yield
