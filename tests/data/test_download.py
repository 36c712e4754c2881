import dataclasses
import hashlib
import io
import shutil
import socket
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pooch
import pytest

from layerprobe.data import fetch, load, register_dataset
from layerprobe.data.registry import REGISTRY, Entry, Source
from layerprobe.errors import DataError, InputError


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        super().do_GET()

    def log_message(self, *args):
        """Print nothing."""


@contextmanager
def serving(folder):
    """Serve a folder on a free local port: yields its address and the list of requested paths."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    server.requests = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", server.requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def site(tmp_path):
    """Serve two files; `.source` has their address and MD5s, `.target` is the destination."""
    folder = tmp_path / "site"
    folder.mkdir()
    contents = {"images.gz": b"pixels" * 50_000, "labels.gz": b"labels"}
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    md5 = {file: hashlib.md5(content).hexdigest() for file, content in contents.items()}
    with serving(folder) as (address, requests):
        source, target = Source((address,), md5), tmp_path / "root" / "set"
        yield SimpleNamespace(
            folder=folder, contents=contents, requests=requests, source=source, target=target
        )


@pytest.fixture
def closed_port():
    """Address of a port without a server: bound, so that it stays free, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def fetch_from(source, target, **options):
    """Fetch a set of the user with this source into a folder."""
    register_dataset("own", Entry(read=None, folder=target.name, source=source))
    return fetch("own", target.parent, **options)


def held(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("progress", [False, True])
def test_good_files_arrive_and_are_not_fetched_twice(site, capfd, progress):
    fetch_from(site.source, site.target, progress=progress)
    assert held(site.target) == site.contents
    assert site.requests == ["/images.gz", "/labels.gz"]
    out, err = capfd.readouterr()
    assert out == ""
    assert ("images.gz" in err) == progress
    fetch_from(site.source, site.target, progress=progress)
    assert len(site.requests) == 2
    assert "images.gz" not in capfd.readouterr().err


def test_the_log_level_of_pooch_is_restored(site):
    level = pooch.get_logger().level
    fetch_from(site.source, site.target)
    assert pooch.get_logger().level == level


def test_a_damaged_file_in_place_is_replaced(site):
    site.target.mkdir(parents=True)
    (site.target / "images.gz").write_bytes(b"half")
    (site.target / "labels.gz").write_bytes(site.contents["labels.gz"])
    fetch_from(site.source, site.target)
    assert held(site.target) == site.contents
    assert site.requests == ["/images.gz"]


def test_a_wrong_checksum_leaves_nothing_behind(site):
    (site.folder / "images.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match="MD5") as caught:
        fetch_from(site.source, site.target)
    for part in ("images.gz", site.source.md5["images.gz"], site.source.urls[0], f"by hand in {site.target}"):
        assert part in str(caught.value)
    assert held(site.target) == {}


def test_a_file_missing_on_the_server_is_reported(site):
    (site.folder / "labels.gz").unlink()
    with pytest.raises(DataError, match=r"(?s)labels\.gz.*404.*by hand"):
        fetch_from(site.source, site.target)
    assert held(site.target) == {"images.gz": site.contents["images.gz"]}


def test_an_unreachable_server(site, closed_port):
    with pytest.raises(DataError, match=r"(?s)refused.*by hand.*images\.gz, labels\.gz"):
        fetch_from(Source((closed_port,), site.source.md5), site.target)
    assert held(site.target) == {}


@pytest.mark.parametrize("url", ["not an address", "gopher://example.invalid"])
def test_an_invalid_address_is_reported(site, url):
    with pytest.raises(DataError, match=url):
        fetch_from(Source((url,), site.source.md5), site.target)


def test_a_folder_that_cannot_be_created_is_reported(site):
    site.target.parent.mkdir()
    site.target.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="by hand"):
        fetch_from(site.source, site.target)


def test_the_next_address_is_tried_after_one_that_fails(site, closed_port):
    fetch_from(Source((closed_port, *site.source.urls), site.source.md5), site.target, progress=True)
    assert held(site.target) == site.contents


def test_fetch_refuses_content_that_is_not_the_publishers(tiny_mnist, tmp_path):
    with (
        serving(tiny_mnist.folder) as (address, _),
        pytest.raises(DataError, match="published MD5 8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    ):
        fetch("fashion-mnist", tmp_path / "new", base_url=address)
    assert held(tmp_path / "new" / "fashion-mnist") == {}


def test_fetch_goes_to_the_environments_root(monkeypatch, tmp_path, closed_port):
    monkeypatch.setenv("LAYERPROBE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"by hand in {tmp_path / 'fashion-mnist'}"):
        fetch("fashion-mnist", base_url=closed_port)


def test_sets_without_a_download_are_refused(tmp_path):
    with pytest.raises(InputError, match="'digits' needs no download"):
        fetch("digits", tmp_path)
    with pytest.raises(InputError, match=r"'cifar'.*digits, mnist"):
        fetch("cifar", tmp_path)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Register a small CIFAR-10 as the published one: an archive with two records per file."""
    entry = REGISTRY["cifar-10"]
    archive = tmp_path / "site" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for i, file in enumerate((*entry.files, "readme.html")):
            records = bytes([3, *[i] * 3072, 5, *[i] * 3072])
            member = tarfile.TarInfo(f"{entry.folder}/{file}")
            member.size = len(records)
            tar.addfile(member, io.BytesIO(records))
    source = dataclasses.replace(
        entry.source, md5={archive.name: hashlib.md5(archive.read_bytes()).hexdigest()}
    )
    entry = dataclasses.replace(entry, files=dict.fromkeys(entry.files, len(records)), source=source)
    monkeypatch.setitem(REGISTRY, "cifar-10", entry)
    with serving(archive.parent) as (address, requests):
        yield SimpleNamespace(archive=archive, address=address, requests=requests, root=tmp_path / "root")


@pytest.mark.parametrize("progress", [False, True])
def test_an_archive_is_unpacked_and_not_fetched_twice(published, progress, capfd, closed_port):
    folder = fetch("cifar-10", published.root, base_url=published.address, progress=progress)
    assert folder == published.root / "cifar-10-batches-bin"
    assert [path.name for path in published.root.iterdir()] == [folder.name]  # the archive is gone
    assert set(held(folder)) >= set(REGISTRY["cifar-10"].files)
    assert load("cifar-10", published.root).train_labels.tolist() == [3, 5] * 5
    out, err = capfd.readouterr()
    assert out == ""
    assert ("unpacking" in err) == ("cifar-10-binary.tar.gz" in err) == progress
    assert fetch("cifar-10", published.root, base_url=closed_port) == folder


def test_an_archive_in_place_is_not_fetched_again(published, closed_port):
    published.root.mkdir()
    shutil.copy(published.archive, published.root)
    fetch("cifar-10", published.root, base_url=closed_port)
    assert len(load("cifar-10", published.root).train_images) == 10


def test_an_archive_with_a_wrong_checksum_leaves_nothing_behind(published):
    published.archive.write_bytes(published.archive.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"(?s)published MD5 .*by hand in .*root: cifar-10-binary\.tar\.gz"):
        fetch("cifar-10", published.root, base_url=published.address)
    assert list(published.root.iterdir()) == []


@pytest.mark.parametrize(("content", "found"), [(b"part", "4 bytes"), (None, "no file")])
def test_a_part_of_a_set_is_never_replaced(published, content, found):
    folder = fetch("cifar-10", published.root, base_url=published.address)
    (folder / "data_batch_2.bin").unlink()
    if content:
        (folder / "data_batch_2.bin").write_bytes(content)
    before = held(folder)
    with pytest.raises(
        DataError,
        match=rf"data_batch_2\.bin: expected the published 6,146 bytes, got {found}\. Move the folder away",
    ):
        fetch("cifar-10", published.root, base_url=published.address)
    assert held(folder) == before
    assert len(published.requests) == 1


GOOD = {"set/a.bin": b"a" * 70_000, "./set/b.bin": b"b", "set/sub/c.bin": b""}


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
    """Return the path of an archive in an empty folder, and a function that writes files into it."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    path = folder / f"set.{request.param}"
    write = partial(write_zip if request.param == "zip" else write_tar, path)
    write(GOOD)
    return SimpleNamespace(path=path, write=write, target=folder / "set")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def unpack(archive, *members):
    md5 = hashlib.md5(archive.path.read_bytes()).hexdigest()
    fetch_from(Source(("http://127.0.0.1:9",), {archive.path.name: md5}, members), archive.target)


def test_members_are_unpacked(archive):
    unpack(archive, ".")
    assert contents(archive.target) == {"a.bin": b"a" * 70_000, "b.bin": b"b", "sub/c.bin": b""}
    assert list(archive.target.parent.iterdir()) == [archive.target]


def test_only_the_named_members_are_unpacked(archive):
    unpack(archive, "sub", "b.bin")
    assert contents(archive.target) == {"b.bin": b"b", "sub/c.bin": b""}


def refuse(archive, message, members=(".",)):
    with pytest.raises(DataError, match=message):
        unpack(archive, *members)
    assert list(archive.target.parent.iterdir()) == [archive.path]


@pytest.mark.parametrize(
    "name", ["../d.bin", "set/../d.bin", "set/../../d.bin", "/set/d.bin", "set/x/../../../e"]
)
def test_a_member_that_leaves_the_folder_is_refused(archive, name):
    archive.write({**GOOD, name: b"evil"})
    refuse(archive, r"expected files below one folder, got the member")


@pytest.mark.parametrize("link", [("set/x", "/etc/passwd"), ("set/sub", "..")])
def test_a_link_is_refused(tmp_path, link):
    archive = SimpleNamespace(path=tmp_path / "x.tar.gz", target=tmp_path / "set")
    write_tar(archive.path, GOOD, [link])
    refuse(archive, "expected files below one folder")


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
def test_a_damaged_archive_leaves_nothing(archive, damage):
    archive.path.write_bytes(damage(archive.path.read_bytes()))
    refuse(archive, "cannot be unpacked")


def test_an_archive_of_another_set_is_refused(archive):
    refuse(archive, r"expected the published archive, but set/d\.bin is missing", ("a.bin", "d.bin"))


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_files_have_the_published_checksums(real_data, tmp_path, name, closed_port):
    with serving(real_data / name) as (address, _):
        folder = fetch(name, tmp_path, base_url=address)
    assert folder == tmp_path / name
    assert load(name, tmp_path).fingerprint == load(name, real_data).fingerprint
    assert fetch(name, tmp_path, base_url=closed_port) == folder  # complete, so no server is contacted
