"""What every test run begins with."""

import pytest

# So that a failed assertion in the battery shows the values it compared.
pytest.register_assert_rewrite("tests.conformance")
