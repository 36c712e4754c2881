"""Jobs of several processes, as torchrun starts them: few, short, and never waited for beyond a limit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIMIT = 120  # seconds; a job that hangs is killed


@pytest.fixture(scope="session")
def torchrun():
    """Run a job of two processes, `torchrun("script.py", "argument")`, and give how it ended."""

    def run(*command):
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [sys.executable, *start, *map(str, command)]
        job = subprocess.Popen(
            command,
            cwd=HERE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            stdout, stderr = job.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            job.terminate()  # which ends the processes that it started, too
            job.communicate(timeout=LIMIT)
            raise
        return subprocess.CompletedProcess(command, job.returncode, stdout, stderr)

    return run
