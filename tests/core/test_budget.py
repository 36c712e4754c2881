import pytest

from layerprobe.errors import InputError
from layerprobe.utils import memory_limit as budget
from layerprobe.utils.memory_limit import as_bytes, free_memory, readable, require_memory


@pytest.mark.parametrize(
    ("memory", "expected"),
    [(100, 100), ("8GiB", 8 * 2**30), ("500 MB", 5 * 10**8), ("1.5k", 1500), ("2 gb", 2 * 10**9)],
)
def test_amounts_of_memory(memory, expected):
    assert as_bytes(memory) == expected


@pytest.mark.parametrize("memory", [0, -1, True, "much", "8 GiX", "0", None])
def test_invalid_amounts_of_memory_are_refused(memory):
    with pytest.raises(InputError, match="8GiB"):
        as_bytes(memory)


def test_amounts_are_formatted_with_units():
    assert [readable(n) for n in (12, 2048, 3 * 2**30)] == ["12 B", "2.0 KiB", "3.0 GiB"]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 1 MB free, in a cgroup of version 2 of its own."""
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 1000 kB\n")
    (tmp_path / "cgroup").write_text("0::/job/step\n")
    folder = tmp_path / "cgroups" / "job" / "step"
    folder.mkdir(parents=True)
    monkeypatch.setattr(budget, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(budget, "OWN_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(budget, "CGROUPS", tmp_path / "cgroups")
    return folder


def limit(folder, most, used, cache):
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")


def test_free_memory_is_that_of_the_smallest_limit(machine):
    assert free_memory() == 1_024_000
    limit(machine, "max", 10, 0)
    assert free_memory() == 1_024_000
    limit(machine.parent, 500_000, 200_000, 50_000)  # the limit of a cgroup above counts, too
    assert free_memory() == 350_000
    limit(machine, 1000, 2000, 0)
    assert free_memory() == 0


def test_exceeded_limit_is_one_error_before_allocation(machine):
    require_memory(800_000, "outputs", "fewer layers")
    with pytest.raises(InputError, match=r"outputs need .* 80% of the free memory is .*: fewer layers"):
        require_memory(900_000, "outputs", "fewer layers")
    require_memory(900_000, "outputs", "fewer layers", "1MB")
    with pytest.raises(InputError, match="the budget is"):
        require_memory(900_000, "outputs", "fewer layers", 800_000)
