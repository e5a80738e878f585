"""One Ray for the whole test session: it takes a quarter of a minute to start."""

import os
import shutil
import tempfile

import pytest

# Before anything imports what reads them.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray with four logical CPUs and its own folder: no stale address file can make it wait."""
    import ray

    from capricious.cluster.session import PATIENCE

    folder = tempfile.mkdtemp(prefix="ray-")  # not pytest's: paths of sockets must be short
    os.environ.update({"RAY_TMPDIR": folder, **PATIENCE})
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
