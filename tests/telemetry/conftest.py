"""Coroutine tests, with `start` in each of the ways, and bugs that are loud: as the tests of the programming model."""

from tests.programming_model.conftest import bugs_are_loud, pytest_generate_tests, pytest_pyfunc_call

__all__ = ["bugs_are_loud", "pytest_generate_tests", "pytest_pyfunc_call"]
