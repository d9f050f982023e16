"""The public surface: no name and no argument changes unseen."""

import pytest

from tests.test_tools import tool

pytestmark = pytest.mark.once


def test_it_is_as_written_down():
    changes = tool("surface").changes()
    assert not changes, (
        "The public names have changed. If that is meant, run `python tools/surface.py "
        f"--write` and tell it in the CHANGELOG.\n{changes}"
    )
