"""What figures were taken on: without it a figure means nothing."""

import platform
import subprocess
from pathlib import Path

import torch

import plgen_ddp
from plgen_ddp.processor import available_cores

# What decides a CPU's speed in products, as Linux names it.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


def hardware() -> str:
    """One line: processor, cores, instructions, GPU, versions of torch and Python, and the commit in a checkout."""
    words = [f"{available_cores()} cores of {_processor()}"]
    if torch.cuda.is_available():
        words.append(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    words.append(f"torch {torch.__version__}, Python {platform.python_version()}")
    package = Path(plgen_ddp.__file__).parent
    words.append(commit_of(package) or f"plgen_ddp {plgen_ddp.__version__}")
    return "; ".join(words)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if not information.is_file():
        return platform.processor() or platform.machine()
    lines = [line.split(":", 1) for line in information.read_text().split("\n\n")[0].splitlines() if ":" in line]
    fields = {key.strip(): value.strip() for key, value in lines}
    flags = [flag for flag in _INSTRUCTIONS if flag in fields.get("flags", "").split()]
    name = fields.get("model name", platform.machine())
    return f"{name} ({', '.join(flags)})" if flags else name


def commit_of(package: Path) -> str:
    """The commit of the checkout that holds this package's folder, and whether files changed since; else empty."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(package), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        # A virtual environment inside a checkout is not that checkout.
        if not git("ls-files", "__init__.py"):
            return ""
        changed = bool(git("status", "--porcelain", "--untracked-files=no"))
        return f"commit {git('rev-parse', '--short', 'HEAD')}" + (" with changes" if changed else "")
    except OSError:  # no git here
        return ""
