"""Small clusters on this machine, of two workers each, and runs that take a second."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from layerprobe.paper import RunSpec, execute
from layerprobe.runs.clusters import Cluster

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
    def make(seed, **changes):
        return RunSpec.of("mlp-digits", 0.4, seed, **({"subset": 100, "max_epochs": 2} | changes))

    return make


@pytest.fixture
def noted(tmp_path):
    """A trainer for workers that notes what it begins; of some seeds it dies once, after so many epochs.

    Of no epoch it dies every time.
    """
    notes = tmp_path / "notes"
    notes.mkdir()

    def train_with(dies_after):
        def train(spec, root, *, on_epoch, **options):
            begun = sum(1 for _ in notes.glob(f"{spec.seed}-*"))
            (notes / f"{spec.seed}-{begun}").touch()

            def die(epochs):
                if dies_after.get(spec.seed) == epochs and (epochs == 0 or begun == 0):
                    os.kill(os.getpid(), signal.SIGKILL)

            def on_epoch_then_die(epoch):
                on_epoch(epoch)
                die(epoch.epoch)

            die(0)
            return execute(spec, root, on_epoch=on_epoch_then_die, **options)

        return train

    train_with.begun = lambda: sorted(int(path.name.split("-")[0]) for path in notes.iterdir())
    return train_with


def _address(head):
    for line in head.stdout:
        if "--address=" in line:
            return line.split("--address=")[1].strip().strip("'\"")
    raise RuntimeError("ray did not start")
