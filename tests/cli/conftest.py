"""A directory with a user's modules."""

import sys

import pytest

CODE = """
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 3, bias=False)
        self.two = nn.Linear(3, 3, bias=False)
        self.two.weight = self.one.weight

class Box:
    factory = staticmethod(lambda: nn.Linear(3, 2))

made = nn.Linear(3, 2)
number = 5

def build():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

def nothing():
    return None
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory, with users' modules; those of other tests are forgotten, before and after."""
    forget_modules()
    (tmp_path / "users_models.py").write_text(CODE)
    (tmp_path / "users_broken.py").write_text("import no_such_package\n")
    (tmp_path / "users_faulty.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    forget_modules()


def forget_modules():
    for name in [name for name in sys.modules if name.startswith("users_")]:
        del sys.modules[name]
