"""The arithmetic of large products: which types there are, and what `auto` means on a device."""

import torch

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
