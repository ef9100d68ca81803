import pytest

pytest.register_assert_rewrite("every_workflow")
