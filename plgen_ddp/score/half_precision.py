"""A detectron2 detector made ready for bfloat16 and float16."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def prepare_half_precision(model: Any, dtype: torch.dtype, frozen_norm: type) -> None:
    """Prepares a detector in place: memory layout, folded batch norms, weights cast once.

    Autocast would cast the weights again for every image and pass, since they need no gradient. Not for float32: the
    layout gains nothing there, and folding would move the recipe's last bits.

    Args:
        dtype: torch.bfloat16 or torch.float16.
        frozen_norm: detectron2's FrozenBatchNorm2d.
    """
    model.to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and isinstance(getattr(module, "norm", None), frozen_norm):
            norm: Any = module.norm
            module.weight, module.bias = fuse_conv_bn_weights(
                module.weight, module.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            module.norm = None  # type: ignore[assignment]
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.to(dtype)
    head = model.proposal_generator.rpn_head
    for name in ("objectness_logits", "anchor_deltas"):
        setattr(head, name, _InFloat32(getattr(head, name)))


class _InFloat32(nn.Module):
    """A layer in float32 under autocast too: bfloat16's 8 bits are too few for a logit that orders a thousand boxes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.float()

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, enabled=False):
            return self.layer(inputs.float())
