"""A folder of results is replaced as a whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from layerprobe.errors import DataError
from layerprobe.utils.files import replaced_folder

SCRIPT = """
import os, sys
from pathlib import Path
from layerprobe.utils import files

step, count = 0, 0

def counted(function):
    def call(*arguments, **options):
        global count
        count += 1
        if count == step:
            os._exit(9)
        return function(*arguments, **options)
    return call

for name in ("mkdir", "rename", "touch", "unlink", "write_text"):
    setattr(Path, name, counted(getattr(Path, name)))
os.link = counted(os.link)
files.shutil.rmtree = counted(files.shutil.rmtree)
for step in range(1, 100):
    if not (child := os.fork()):
        with files.replaced_folder(Path(sys.argv[1], str(step), "out")) as folder:
            for name in "ab":
                (folder / name).write_text("new")
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(step)
        break
"""


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def old_folder(path):
    path.mkdir()
    for name in ("a", "b", "mine"):
        (path / name).write_text("old")
    (path / "more").mkdir()
    (path / "more" / "deep").write_text("old")
    return path


def test_kill_at_any_step_leaves_no_mixture(tmp_path):
    for step in range(1, 100):
        (tmp_path / str(step)).mkdir()
        old_folder(tmp_path / str(step) / "out")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    steps = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert steps > 5
    for step in range(1, steps + 1):
        out = tmp_path / str(step) / "out"
        if out.exists():
            assert {content(out)[name] for name in "ab"} in ({"old"}, {"new"})
            assert content(out)["mine"] == "old"
        with replaced_folder(out) as folder:
            for name in "ab":
                (folder / name).write_text("newest")
        assert content(out) == {"a": "newest", "b": "newest", "mine": "old"}
        assert (out / "more" / "deep").read_text() == "old"
        assert list(out.parent.iterdir()) == [out]


def test_error_keeps_the_old_folder(tmp_path):
    out = old_folder(tmp_path / "out")
    with pytest.raises(ZeroDivisionError), replaced_folder(out) as folder:
        (folder / "a").write_text(str(1 // 0))
    assert content(out) == {"a": "old", "b": "old", "mine": "old"}
    assert list(tmp_path.iterdir()) == [out]


def test_errors_of_the_block_are_not_those_of_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.npy"), replaced_folder(tmp_path / "out"):
        (tmp_path / "x.npy").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_interruption_between_the_renames_keeps_the_old_folder(tmp_path, monkeypatch):
    out = old_folder(tmp_path / "out")

    def interrupted(self, target):
        os.rename(self, target)
        if str(target).endswith(".old"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replaced_folder(out) as folder:
        (folder / "a").write_text("new")
    assert content(out) == {"a": "old", "b": "old", "mine": "old"}
    assert list(tmp_path.iterdir()) == [out]


def test_new_folder_is_made_with_its_parents(tmp_path):
    with replaced_folder(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("new")
    assert content(tmp_path / "deep" / "out") == {"a": "new"}


def test_working_directory_is_replaced_file_by_file(tmp_path, monkeypatch):
    out = old_folder(tmp_path / "out")
    monkeypatch.chdir(out)
    with replaced_folder(".") as folder:
        (folder / "a").write_text("new")
    assert Path.cwd() == out
    assert content(Path()) == {"a": "new", "b": "old", "mine": "old"}


def test_link_to_a_folder_stays_a_link(tmp_path):
    old_folder(tmp_path / "real")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with replaced_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / "out").is_symlink()
    assert content(tmp_path / "real")["a"] == "new"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_folder_that_is_read_only_is_refused_before_the_work(tmp_path):
    out = old_folder(tmp_path / "out")
    out.chmod(0o500)
    with pytest.raises(DataError, match="cannot be written"), replaced_folder(out):
        pytest.fail("the work began")


def test_file_in_place_of_a_folder_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="cannot be written"), replaced_folder(tmp_path / "file" / "out"):
        pytest.fail("the work began")
