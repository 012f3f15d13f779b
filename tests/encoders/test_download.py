"""A download is complete, checked, bounded, and made once, against a real server on this machine."""

import hashlib
import http.server
import subprocess
import sys
import threading
import time

import pytest
from commands import environment

from plgen_ddp.encoders.download import Limits, cache_name, download
from plgen_ddp.errors import UserError

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """Serves CONTENT; /slow pauses on the way, /silent never goes on after the first bytes."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:1000])
            self.wfile.flush()
            if self.path == "/silent":
                stop.wait(60)
                return
            if self.path == "/slow":
                time.sleep(1)
            self.wfile.write(CONTENT[1000:])

        def log_message(self, *words):
            pass

    stop = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        running.asked, running.url = asked, f"http://127.0.0.1:{running.server_address[1]}"
        yield running
        stop.set()
        running.shutdown()


def test_a_file_is_fetched_once_and_a_damaged_one_again(server, tmp_path):
    target = tmp_path / "cache" / "model.pt"
    for _ in range(2):
        assert download(f"{server.url}/model.pt", target, DIGEST, "clip.model") == target
    assert target.read_bytes() == CONTENT and len(server.asked) == 1
    target.write_bytes(b"damaged")
    download(f"{server.url}/model.pt", target, DIGEST, "clip.model")
    assert target.read_bytes() == CONTENT and len(server.asked) == 2
    assert list(target.parent.iterdir()) == [target], "neither a lock nor a temporary file is left"


@pytest.mark.parametrize(
    ("path", "digest", "limits", "reason"),
    [
        ("/model.pt", "0" * 64, Limits(), "its SHA-256 is"),
        ("/model.pt", DIGEST, Limits(size=5000), "it is larger than 5000 bytes"),
        ("/silent", DIGEST, Limits(silent=0.5), "timed out"),
        ("/slow", DIGEST, Limits(whole=0.3), "it took longer than 0.3 s"),
    ],
)
def test_what_is_not_the_file_leaves_nothing_behind(server, tmp_path, path, digest, limits, reason):
    with pytest.raises(UserError, match=rf"clip.model: cannot download .*{reason}.*; download it elsewhere"):
        download(server.url + path, tmp_path / "model.pt", digest, "clip.model", limits)
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot download http://127\.0\.0\.1:1/model\.pt") as error:
        download("http://127.0.0.1:1/model.pt", tmp_path / "model.pt", DIGEST, "clip.model")
    assert "\n" not in str(error.value)


def test_processes_that_share_a_folder_fetch_it_once(server, tmp_path):
    code = f"""
from pathlib import Path
from plgen_ddp.encoders.download import download
download({server.url + "/slow"!r}, Path({str(tmp_path / "model.pt")!r}), {DIGEST!r}, "clip.model")
"""
    started = [subprocess.Popen([sys.executable, "-c", code], env=environment()) for _ in range(3)]
    assert [process.wait(200) for process in started] == [0, 0, 0]
    assert server.asked == ["/slow"]
    assert (tmp_path / "model.pt").read_bytes() == CONTENT


def test_the_lock_of_a_killed_process_does_not_block(server, tmp_path):
    (tmp_path / ".model.pt.lock").touch()
    download(f"{server.url}/model.pt", tmp_path / "model.pt", DIGEST, "clip.model", Limits(silent=0.5))
    assert (tmp_path / "model.pt").read_bytes() == CONTENT and len(server.asked) == 1


def test_two_hosts_with_one_path_do_not_share_a_name():
    names = {
        cache_name(url) for url in ("http://a/x/m.pt", "http://b/x/m.pt", "http://a/y/m.pt", "http://a/x/../../m.pt")
    }
    assert len(names) == 4 and all("/" not in name and name.endswith("m.pt") for name in names)
    assert "/" not in cache_name("http://a/..") and not cache_name("http://a/..").startswith(".")
