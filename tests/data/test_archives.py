import io
import tarfile
import zipfile

import pytest

from layerprobe.data.archives import unpack
from layerprobe.errors import DataError

MEMBERS = r"[a-z]\.bin|sub/[a-z]\.bin"
GOOD = {"set/a.bin": b"a" * 70_000, "./set/b.bin": b"b", "set/sub/c.bin": b""}
UNWANTED = {
    "set/readme.html": b"",
    "other/a.bin": b"",
    "a.bin": b"",
    "../set/d.bin": b"",
    "set/../d.bin": b"",
    "set/../../d.bin": b"",
    "/set/d.bin": b"",
    "set/d.bin/../../../e.bin": b"",
}


def write_tar(path, files, links=()):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("set/", "")
        for name, content in files.items():
            zipped.writestr(name, content)


@pytest.fixture(params=["tar.gz", "zip"])
def archive(request, tmp_path):
    path = tmp_path / "downloads" / f"set.{request.param}"
    path.parent.mkdir()
    (write_tar if request.param == "tar.gz" else write_zip)(path, {**UNWANTED, **GOOD})
    (tmp_path / "root").mkdir()
    return path


def everything(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_only_the_known_members_come_out(archive, tmp_path):
    reports = []
    root = tmp_path / "root"
    unpack(archive, root / "set", MEMBERS, progress=lambda *report: reports.append(report))
    assert everything(tmp_path) == {
        f"downloads/{archive.name}": archive.read_bytes(),
        **{f"root/{name.removeprefix('./')}": content for name, content in GOOD.items()},
    }
    assert [path.name for path in root.iterdir()] == ["set"]
    assert reports == [(i, 0) for i in (1, 2, 3)]


def test_a_link_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    write_tar(
        tmp_path / "x.tar.gz", {"set/b.bin": b"b"}, [("set/a.bin", "/etc/passwd"), ("set/sub", str(target))]
    )
    unpack(tmp_path / "x.tar.gz", tmp_path / "set", MEMBERS)
    assert everything(tmp_path / "set") == {"b.bin": b"b"}
    assert everything(target) == {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:10],
        lambda content: b"",
        lambda content: b"no archive" * 100,
        lambda content: content[: len(content) // 3] + bytes(40) + content[len(content) // 3 + 40 :],
    ],
)
def test_a_damaged_archive_leaves_nothing(archive, tmp_path, damage):
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(DataError, match=archive.name):
        unpack(archive, tmp_path / "root" / "set", MEMBERS)
    assert list((tmp_path / "root").iterdir()) == []


def test_an_archive_of_something_else(archive, tmp_path):
    with pytest.raises(DataError, match="holds no file of new/"):
        unpack(archive, tmp_path / "root" / "new", MEMBERS)
    assert list((tmp_path / "root").iterdir()) == []


def test_an_interruption_leaves_nothing(archive, tmp_path):
    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "root" / "set", MEMBERS, progress=interrupt)
    assert list((tmp_path / "root").iterdir()) == []


def test_what_is_in_place_is_not_replaced(archive, tmp_path):
    place = tmp_path / "root" / "set"
    place.mkdir()
    (place / "a.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="could not be unpacked"):
        unpack(archive, place, MEMBERS)
    assert everything(tmp_path / "root") == {"set/a.bin": b"mine"}


def test_a_member_twice_is_refused(tmp_path):
    write_tar(tmp_path / "x.tar.gz", {"set/a.bin": b"1", "./set/a.bin": b"2"})
    with pytest.raises(DataError, match="could not be unpacked"):
        unpack(tmp_path / "x.tar.gz", tmp_path / "set", MEMBERS)
