"""The interface that ranks of several nodes use: two nodes are two network namespaces, each with a loopback name."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys

import pytest
from commands import REPOSITORY, environment

from plgen_ddp.network import _addresses, interface_towards

_SECONDS = 240
_RANK = """
import os
from plgen_ddp.console import end_with, one_line_errors
from plgen_ddp.world import World

def main():
    with one_line_errors(), World.from_env() as world:
        print("found", world.gather(os.environ.get("GLOO_SOCKET_IFNAME")), flush=True)

if __name__ == "__main__":
    end_with(main)
"""


def test_an_own_address_leads_to_its_interface():
    for name, address in _addresses().items():
        assert interface_towards(address) == name
    assert interface_towards("no-such-host.invalid") in {*_addresses(), None}


def test_no_interface_is_a_loopback_one():
    names = {name for _, name in socket.if_nameindex()}
    assert set(_addresses()) <= names - {"lo"} and interface_towards("127.0.0.1") != "lo"


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def nodes():
    """Two network namespaces that reach each other at 10.99.0.1 and 10.99.0.2."""
    mark = secrets.token_hex(2)
    names = [f"pl{mark}a", f"pl{mark}b"]
    if shutil.which("ip") is None or shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs root, ip and unshare")
    with contextlib.ExitStack() as made:
        try:
            for name in names:
                ip("netns", "add", name)
                made.callback(ip, "netns", "delete", name)
            ip("link", "add", "wire0", "netns", names[0], "type", "veth", "peer", "name", "wire0", "netns", names[1])
            for number, name in enumerate(names, 1):
                ip("-n", name, "address", "add", f"10.99.0.{number}/24", "dev", "wire0")
                ip("-n", name, "link", "set", "wire0", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        yield names


def test_nodes_whose_names_are_loopback_addresses_find_each_other(nodes, tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(_RANK)
    running = []
    for number, name in enumerate(nodes):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
        where = [f"--node_rank={number}", "--master_addr=10.99.0.1", "--master_port=29555", str(script)]
        node = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", 'hostname localhost; exec "$@"', "sh"]
        running.append(
            subprocess.Popen(
                [*node, *torchrun, *where],
                env=environment(),
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ends = [job.communicate(timeout=_SECONDS) for job in running]
    assert [job.returncode for job in running] == [0, 0], ends
    assert "found ['wire0', 'wire0']" in ends[0][0]
