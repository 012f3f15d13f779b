"""A real Slurm of two nodes on this machine, in a temporary folder, for as long as a `with` block.

munged, slurmctld and one slurmd a node, with their own key, socket, state and loopback ports: a Slurm that the machine
may already have is neither used nor disturbed.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

NODES = ("n1", "n2")
CPUS_PER_NODE = 4  # as Slurm counts them; the machine may have fewer
GPUS_PER_NODE = 2  # device files in place of GPUs: Slurm hands them out and sets its variables
_GPU_FILES = ("/dev/null", "/dev/zero")
_DAEMONS = ("munged", "slurmctld", "slurmd")
# Where Debian keeps daemons; a user's PATH may lack it.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_START_SECONDS = 30

_CONFIG = """\
ClusterName=plgen
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
# Jobs derive a port from their number; two clusters on one machine should not meet.
FirstJobId={first_job}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also how long a requeued job waits.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
{nodes}
# An ended job is forgotten after this number of seconds; a test asks late for its state.
MinJobAge=86400
# A job of the partition `urgent` preempts others, which get a signal and this many seconds first.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes={names} Default=YES State=UP PriorityTier=1 GraceTime=200
PartitionName=urgent Nodes={names} State=UP PriorityTier=9
"""


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    lacking = [name for name in _DAEMONS if shutil.which(name, path=_PATH) is None]
    if lacking:
        return f"needs Slurm and munge: no {', '.join(lacking)}"
    if os.geteuid() != 0:
        return "needs root: slurmd starts jobs"
    return None


@dataclass(frozen=True)
class SlurmCluster:
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """For Slurm's commands: this process's environment with this cluster's configuration, outside of any job."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return own | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *words: str | Path) -> str:
        """Standard output of one of Slurm's commands, which must succeed."""
        done = subprocess.run(
            list(map(str, words)), env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def job(self, job_id: str) -> dict[str, str]:
        """What `scontrol show job` says: JobState, Restarts, ExitCode and so on."""
        words = self.call("scontrol", "--oneliner", "show", "job", job_id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job_id: str, seconds: float) -> dict[str, str]:
        """The job's description once it has ended."""
        deadline = time.monotonic() + seconds
        while (job := self.job(job_id))["JobState"] in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED"):
            assert time.monotonic() < deadline, f"still {job['JobState']} after {seconds} s, {job.get('Reason')}"
            time.sleep(0.2)
        return job


@contextlib.contextmanager
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Starts a cluster of `NODES`; on leaving, ends its jobs and its daemons.

    Raises:
        RuntimeError: it did not start; the message holds the ends of the logs.
    """
    # Not pytest's folder: munged wants one that others can enter.
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        _write_configuration(folder)
        yield from _run_daemons(folder)


def _run_daemons(folder: Path) -> Iterator[SlurmCluster]:
    cluster = SlurmCluster(folder)
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str, *words: str) -> None:
        with (folder / f"{name}.log").open("wb") as log:
            environment = cluster.environment | {"PATH": _PATH}
            running.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=folder))

    munge_files = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "seed", "log")]
    try:
        start("munged", "munged", "--foreground", "--num-threads=1", f"--socket={folder}/munge.socket", *munge_files)
        _wait_until((folder / "munge.socket").exists, folder)
        start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            start(node, "slurmd", "-D", "-N", node)
        _wait_until(lambda: _idle_nodes(cluster) == sorted(NODES), folder)
        try:
            yield cluster
        finally:  # a job would outlive the daemons
            cluster.call("scancel", "--user=root")
            _wait_until(lambda: not cluster.call("squeue", "--noheader"), folder)
    finally:
        for process in reversed(running):
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _write_configuration(folder: Path) -> None:
    (folder / "state").mkdir()
    for node in NODES:
        (folder / node).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    controller_port, *node_ports = _free_ports(1 + len(NODES))
    host = socket.gethostname().split(".")[0]
    nodes = [
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE} "
        f"Gres=gpu:{GPUS_PER_NODE}"
        for node, port in zip(NODES, node_ports, strict=True)
    ]
    (folder / "slurm.conf").write_text(
        _CONFIG.format(
            host=host,
            controller_port=controller_port,
            first_job=1 + secrets.randbelow(1_000_000),
            folder=folder,
            nodes="\n".join(nodes),
            names=",".join(NODES),
        )
    )
    gpus = [f"NodeName={','.join(NODES)} Name=gpu File={path}\n" for path in _GPU_FILES]
    (folder / "gres.conf").write_text("".join(gpus))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _idle_nodes(cluster: SlurmCluster) -> list[str]:
    words = ["sinfo", "--Node", "--noheader", "--states=idle", "--format=%N"]
    done = subprocess.run(words, env=cluster.environment, capture_output=True, text=True, check=False, timeout=60)
    return sorted(set(done.stdout.split()))  # a line for each partition


def _wait_until(holds: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            logs = [f"{path.name}:\n{path.read_text()[-1000:]}" for path in sorted(folder.glob("*.log"))]
            raise RuntimeError("the Slurm cluster is not as expected\n" + "\n".join(logs))
        time.sleep(0.1)
