import hashlib
import socket
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pooch
import pytest

from layerprobe.data import fetch, load
from layerprobe.data.download import fetch_files
from layerprobe.data.imagesets import Source
from layerprobe.errors import DataError, InputError


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        super().do_GET()

    def log_message(self, *args):
        """Keep the tests' output clean."""


@contextmanager
def serving(folder):
    """Serve a folder on a free local port: gives its address and the growing list of paths asked for."""
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
    """Serve two files; `.source` states where they are and their MD5s, `.target` is where they shall go."""
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
def nobody():
    """Address of a port where nothing listens: bound, so that nobody else takes it, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def held(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("progress", [False, True])
def test_good_files_arrive_and_are_not_fetched_twice(site, capfd, progress):
    fetch_files(site.source, site.target, progress=progress)
    assert held(site.target) == site.contents
    assert site.requests == ["/images.gz", "/labels.gz"]
    out, err = capfd.readouterr()
    assert out == ""
    assert ("images.gz" in err) == progress
    fetch_files(site.source, site.target, progress=progress)
    assert len(site.requests) == 2
    assert "images.gz" not in capfd.readouterr().err


def test_pooch_logs_for_others_as_before(site):
    level = pooch.get_logger().level
    fetch_files(site.source, site.target)
    assert pooch.get_logger().level == level


def test_a_damaged_file_in_place_is_replaced(site):
    site.target.mkdir(parents=True)
    (site.target / "images.gz").write_bytes(b"half")
    (site.target / "labels.gz").write_bytes(site.contents["labels.gz"])
    fetch_files(site.source, site.target)
    assert held(site.target) == site.contents
    assert site.requests == ["/images.gz"]


def test_a_wrong_checksum_leaves_nothing_behind(site):
    (site.folder / "images.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match="MD5") as caught:
        fetch_files(site.source, site.target)
    for part in ("images.gz", site.source.md5["images.gz"], site.source.urls[0], f"by hand in {site.target}"):
        assert part in str(caught.value)
    assert held(site.target) == {}


def test_a_file_that_the_server_does_not_have(site):
    (site.folder / "labels.gz").unlink()
    with pytest.raises(DataError, match=r"(?s)labels\.gz.*404.*by hand"):
        fetch_files(site.source, site.target)
    assert held(site.target) == {"images.gz": site.contents["images.gz"]}


def test_an_unreachable_server(site, nobody):
    with pytest.raises(DataError, match=r"(?s)refused.*by hand.*images\.gz, labels\.gz"):
        fetch_files(Source((nobody,), site.source.md5), site.target)
    assert held(site.target) == {}


@pytest.mark.parametrize("url", ["not an address", "gopher://example.invalid"])
def test_an_address_that_is_none(site, url):
    with pytest.raises(DataError, match=url):
        fetch_files(Source((url,), site.source.md5), site.target)


def test_a_folder_that_cannot_be(site):
    site.target.parent.mkdir()
    site.target.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="by hand"):
        fetch_files(site.source, site.target)


def test_the_next_address_is_tried_after_one_that_fails(site, nobody):
    fetch_files(Source((nobody, *site.source.urls), site.source.md5), site.target, progress=True)
    assert held(site.target) == site.contents


def test_fetch_refuses_content_that_is_not_the_publishers(tiny_mnist, tmp_path):
    with (
        serving(tiny_mnist.folder) as (address, _),
        pytest.raises(DataError, match="published MD5 f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    ):
        fetch("mnist", tmp_path / "new", base_url=address)
    assert held(tmp_path / "new" / "mnist") == {}


def test_fetch_goes_to_the_environments_root(monkeypatch, tmp_path, nobody):
    monkeypatch.setenv("LAYERPROBE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"by hand in {tmp_path / 'fashion-mnist'}"):
        fetch("fashion-mnist", base_url=nobody)


def test_what_cannot_be_fetched(tmp_path):
    with pytest.raises(InputError, match="'digits' needs no download"):
        fetch("digits", tmp_path)
    with pytest.raises(InputError, match=r"'cifar'.*digits, mnist"):
        fetch("cifar", tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_files_bear_the_published_checksums(real_data, tmp_path, name, nobody):
    with serving(real_data / name) as (address, _):
        folder = fetch(name, tmp_path, base_url=address)
    assert folder == tmp_path / name
    assert load(name, tmp_path).fingerprint == load(name, real_data).fingerprint
    assert fetch(name, tmp_path, base_url=nobody) == folder  # all in place: no server is asked
