"""What all tests share: caches and keys of their own, and one built demo cohort."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("default")

DEMO_PATIENTS, DEMO_SEED = 5, 3


def pytest_configure() -> None:
    """Before anything is imported: no hub, and no cache or key of the developer's."""
    own = Path(tempfile.mkdtemp(prefix="cohort-tests-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(own / "huggingface"),
        "HF_DATASETS_CACHE": str(own / "datasets"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "XDG_CONFIG_HOME": str(own / "config"),
        "MPLCONFIGDIR": str(own / "matplotlib"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo, built once for all test processes. Read only: a test that changes something copies it first."""
    from cohort_builder.demo.run import run_demo

    base = tmp_path_factory.getbasetemp()
    root = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with FileLock(root / "demo.lock"):
        if not (root / "demo" / "score.json").is_file():
            run_demo(root / "demo", patients=DEMO_PATIENTS, seed=DEMO_SEED, workers=2, progress=False)
    return root / "demo"
