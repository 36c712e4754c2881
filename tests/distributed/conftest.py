"""Jobs of several processes, as torchrun starts them: few, short, and never waited for beyond a limit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIMIT = 60  # seconds; a job that hangs is killed


@pytest.fixture(scope="session")
def torchrun():
    """Run a job of two processes, `torchrun("script.py", "argument")`, and give how it ended."""

    def run(*command, processes=2):
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        return subprocess.run(
            [sys.executable, *start, *map(str, command)],
            cwd=HERE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )

    return run
