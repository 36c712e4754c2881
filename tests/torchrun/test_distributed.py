import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from layerprobe.errors import InputError, ProcessError
from layerprobe.utils import distributed
from layerprobe.utils.distributed import group, rank, shard, sum_over_processes, world_size

from .conftest import LIMIT


def test_without_a_group_there_is_one_process():
    tensor = torch.ones(3)
    with group():
        assert (rank(), world_size(), shard(4)) == (0, 1, range(4))
        assert sum_over_processes(tensor) is tensor
    assert not torch.distributed.is_initialized()


def test_two_processes_share_rows_and_sums(torchrun, tmp_path):
    result = torchrun("sums_job.py", tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = (json.loads((tmp_path / f"{k}.json").read_text()) for k in (0, 1))
    assert (first["rank"], second["rank"]) == (0, 1)
    assert first["shards"] == [[], [0], [0, 2, 4]]
    assert second["shards"] == [[], [], [1, 3]]
    assert first["argument"] == [0, 2, 4, 6]
    assert second["argument"] == [1, 3, 5]
    for seen in (first, second):
        assert seen["before"] == seen["after"] == [0, 1]
        assert seen["world"] == seen["nested"] == 2
        assert seen["sum"] == 21
        assert seen["again"] == 2
        assert seen["counts"] == [7, 2**54 + 1]
        assert seen["transposed"] == [[1, 7], [3, 9], [5, 11]]
        assert seen["empty"] == [0, 3]


def test_incomplete_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"RANK and MASTER_ADDR and MASTER_PORT are not .*torchrun"), group():
        pass


def test_missing_processes_raise_after_the_timeout(monkeypatch):
    for name, value in one_of_two(0, free_port()).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match="waited for the other processes"), group(timeout_s=1):
        pass
    assert world_size() == 1


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def one_of_two(number, port):
    """What torchrun tells a process."""
    return {"WORLD_SIZE": "2", "RANK": str(number), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}


WAITING = """
import os, sys, time, torch
from layerprobe.utils.distributed import group, rank, sum_over_processes
with group(timeout_s=float(sys.argv[1])):
    sum_over_processes(torch.ones(1))
    if rank() == 1:
        print("ready", flush=True)
        if sys.argv[2] == "raises":
            raise SystemExit("something of its own")
        time.sleep(600)
    sum_over_processes(torch.ones(1))
"""


@pytest.mark.parametrize(("timeout", "fate"), [(600, "raises"), (600, signal.SIGKILL), (3, signal.SIGSTOP)])
def test_a_process_that_is_lost_ends_the_others_with_a_clear_error(timeout, fate):
    """Without torchrun, which would end the others itself: killed and raising at once, hanging in time."""
    port = free_port()
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", WAITING, str(timeout), str(fate)],
            env=os.environ | one_of_two(k, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in (0, 1)
    ]
    try:
        assert jobs[1].stdout.readline() == "ready\n"
        if fate != "raises":
            jobs[1].send_signal(fate)
        start = time.monotonic()
        _, said = jobs[0].communicate(timeout=LIMIT)
        assert jobs[0].returncode == 1
        assert "ProcessError: process 0 waited for the other processes of its job" in said
        assert "look for the first error among their outputs" in said
        assert time.monotonic() - start < LIMIT
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def test_torchrun_ends_a_job_when_a_process_fails(torchrun, tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(WAITING)
    result = torchrun(script, 600, "raises")
    assert result.returncode != 0
    assert "something of its own" in result.stderr


def test_networks_without_a_parameter_are_the_same(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "sum_over_processes", lambda tensor: 2 * tensor)
    distributed.require_same("network")
