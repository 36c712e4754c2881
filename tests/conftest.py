"""Fixtures for every test: real data where it is at hand, one thread, hypothesis that repeats itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
import torch
from filelock import FileLock
from threadpoolctl import threadpool_limits

from browsing import start_chromium
from layerprobe.utils.registry import Registry

ROOT = Path(__file__).resolve().parents[1]
REAL_SETS = ("mnist", "fashion-mnist", "cifar-100", "tiny-imagenet", "cifar-n")

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small decompositions collapse when several threads share a busy machine."""
    torch.set_num_threads(1)
    with threadpool_limits(limits=1):  # NumPy's BLAS, for the oracle
        yield


@pytest.fixture(autouse=True)
def repeatable():
    """A test draws the same random numbers alone, after others and on any worker."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def nothing_stays_registered():
    """Names that a test registers are forgotten after it."""
    before = {group: set(registry) for group, registry in Registry.every.items()}
    yield
    for group, registry in Registry.every.items():
        for name in set(registry) - before.get(group, set(registry)):
            del registry[name]


@pytest.fixture(scope="session")
def real_data(tmp_path_factory):
    """Folder with the real data sets as their publishers ship them, one subfolder each (`mnist/`, ...)."""
    given = os.environ.get("LAYERPROBE_DATA")
    if given and (Path(given) / "mnist").is_dir():
        return Path(given)
    unpack = ROOT.parent / "shared" / "data" / "unpack"
    if not unpack.is_file():
        pytest.skip("no real data: set LAYERPROBE_DATA to a folder that holds mnist/ and fashion-mnist/")
    run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        run = run.parent  # the folder that all workers of this run share
    folder = run / "real-data"
    with FileLock(run / "real-data.lock"):  # the first worker unpacks, the others find it done
        subprocess.run([sys.executable, unpack, folder, *REAL_SETS], check=True, capture_output=True)
    return folder


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium; a test that uses it is marked `browser`, and skipped where there is none."""
    if shutil.which("chromium") is None:
        pytest.skip("no chromium on the path")
    started = start_chromium(tmp_path / "profile")
    yield started
    started.quit()
