"""A Ray of the tests' own, for stages that use Ray Data."""

import pytest


@pytest.fixture(scope="module")
def cluster():
    """Two logical CPUs on this machine, gone after the module."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
