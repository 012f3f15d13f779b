"""The device of a rank: which GPU, which arithmetic, how many threads, how much memory."""

import resource
import sys
from importlib import import_module
from importlib.metadata import packages_distributions, version
from typing import Any

import torch

from plgen_ddp.config import RunConfig
from plgen_ddp.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` as fp16 on CUDA, the type of CLIP's published weights; bf16 on CPUs with instructions for it; else fp32.

    Others are returned as they are.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "fp16"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def prepare_device(run: RunConfig, local_rank: int) -> torch.device:
    """The device of a rank, its own GPU or the CPU; sets the rank's number of CPU threads.

    Raises:
        UserError: CUDA was asked for and is not there, or a node has fewer GPUs than ranks.
    """
    torch.set_num_threads(run.threads)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if run.device == "cpu" or (run.device == "auto" and not gpus):
        return torch.device("cpu")
    if not gpus:
        raise UserError("run.device is cuda, and torch sees no GPU here; use run.device=cpu, or look at nvidia-smi")
    if local_rank >= gpus:
        raise UserError(f"more ranks than GPUs on this node: {gpus}; start torchrun with --nproc_per_node={gpus}")
    torch.cuda.set_device(local_rank)
    torch.backends.cudnn.allow_tf32 = False  # "fp32" means float32; fp16 is the faster choice
    return torch.device("cuda", local_rank)


def conditions_of(run: RunConfig, device: torch.device, clip_batch: int) -> dict[str, Any]:
    """What may change the last digits of what a rank makes, beside the settings that belong to a store's identity.

    oneDNN sums in another order on another number of threads or with other instructions; a matrix product may do so
    for another batch.

    Args:
        clip_batch: crops in a batch of the encoder.
    """
    own: dict[str, Any] = {"run.threads": run.threads, "clip.batch_size": clip_batch}
    if device.type == "cuda":
        own |= {"run.images_per_batch": run.images_per_batch, "GPU": torch.cuda.get_device_name(device)}
    else:
        own["CPU's instructions"] = torch.backends.cpu.get_cpu_capability()
    return own | {"versions": installed_versions("plgen_ddp", "torch", "torchvision", "numpy", "cv2", "clip")}


def peak_gpu_memory(device: torch.device) -> int:
    """The most memory that this process has held on a GPU so far, bytes; 0 for a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def peak_memory() -> int:
    """The most memory that this process has held so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def installed_versions(*modules: str) -> dict[str, str]:
    """The version of each imported module, under the name of the package that brought it.

    `cv2` comes from opencv-python, opencv-python-headless or a system's own build; `clip` from clip-anytorch or
    OpenAI's repository. The one that is installed is named.
    """
    packages = packages_distributions()
    found = {}
    for module in modules:
        names = packages.get(module, [])
        found[names[0] if names else module] = (
            version(names[0]) if names else str(getattr(import_module(module), "__version__", "unknown"))
        )
    return found
