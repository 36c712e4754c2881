"""Small clusters on this machine, of two workers each, and runs that take a second."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from layerprobe.paper import PAIRS, RunSpec
from layerprobe.runs.scheduler import Cluster

SOURCE = str(Path(__file__).resolve().parents[2] / "src")
QUIET = {
    "PYTHONPATH": os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")])),
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is to leave this machine
    "RAY_AUTH_MODE": "disabled",  # and no token is to be written to the user's home
}


@pytest.fixture(scope="module")
def dask():
    """A dask cluster of two processes; skipped, visibly, without the extra."""
    distributed = pytest.importorskip("distributed", reason="needs layerprobe[cluster]")
    import dask

    with (
        dask.config.set(
            {"distributed.scheduler.allowed-failures": 1}
        ),  # instead of 3: each costs a new process
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address=None,
            env={"PYTHONPATH": QUIET["PYTHONPATH"]},
        ) as cluster,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "path", [SOURCE, *sys.path])
        yield Cluster("dask", cluster.scheduler_address)


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    """A Ray cluster of two CPUs, in processes of its own; skipped, visibly, without the extra."""
    pytest.importorskip("ray", reason="needs layerprobe[cluster]")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"),
                *("--num-cpus=2", f"--object-store-memory={80 * 10**6}", "--include-dashboard=false"),
                "--disable-usage-stats",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield Cluster("ray", _address(head))
        finally:
            os.killpg(head.pid, signal.SIGTERM)
            try:
                head.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)
                head.wait()


@pytest.fixture(params=["dask", "ray"])
def cluster(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def spec_of():
    def make(pair, **changes):
        return RunSpec.of(pair, 0.4, 0, **({"subset": 100, "max_epochs": 2} | changes))

    return make


@pytest.fixture
def deadly_pair(tmp_path):
    """Register a pair whose network kills the worker that trains it.

    It dies before batch `batch` of a worker's first attempt; without `batch`, at every attempt. `attempts`
    counts them.
    """
    notes, parent, names = tmp_path / "notes", os.getpid(), []
    notes.mkdir()
    digits = PAIRS["mlp-digits"]

    def attempts(name):
        return sum(1 for _ in notes.glob(f"{name}-*"))

    def make(name, batch=None):
        def build(**options):
            network, batches = digits.build(**options), []
            if os.getpid() == parent:
                return network
            attempt = attempts(name)
            (notes / f"{name}-{attempt}").touch()
            if batch is None:
                os.kill(os.getpid(), signal.SIGKILL)

            def before(module, _):
                batches.extend([None] * module.training)
                if len(batches) == batch and attempt == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            network.register_forward_pre_hook(before)
            return network

        PAIRS[name] = replace(digits, name=name, build=build)
        names.append(name)
        return name

    make.attempts = attempts
    yield make
    for name in names:
        del PAIRS[name]


def _address(head):
    for line in head.stdout:
        if "--address=" in line:
            return line.split("--address=")[1].strip().strip("'\"")
    raise RuntimeError("ray did not start")
