"""What the seeded detector and the seeded CLIP share: initialisation under a seed, and layers that set their own scale.

The scale of a layer is set when its first batch arrives, from front to back in one forward pass, as LSUV does
(arXiv 1511.06422).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs the libraries' own initialisation under a seed and leaves the caller's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Makes torch sum in one order on every machine. CLIP's layer norms force float32, where the order shows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def normalize_on_first_call(module: nn.Module) -> None:
    """Sets each (frozen) batch norm's running statistics from the first batch it meets."""

    def set_statistics(layer: Any, x: Tensor) -> None:
        variance = x.var((0, 2, 3), correction=0)
        layer.running_mean.copy_(x.mean((0, 2, 3)))
        # A channel that hardly ever fires here may fire on another image: without a floor it would drown the others.
        layer.running_var.copy_(variance.clamp(min=0.5 * float(variance.mean())))

    for layer in module.modules():
        if hasattr(layer, "running_mean"):
            _on_first_call(layer, set_statistics)


def standardize_on_first_call(layer: nn.Module, std: Tensor | None = None) -> None:
    """Rescales a convolution or linear layer: its first batch gives each channel mean 0 and deviation `std` (1)."""

    def rescale(layer: Any, x: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            y = nn.functional.conv2d(x, layer.weight, stride=layer.stride, padding=layer.padding)
            y = y.transpose(0, 1).flatten(1)
        else:
            y = nn.functional.linear(x, layer.weight).T
        spread = y.std(1, correction=0)
        gain = (1.0 if std is None else std.to(y)) / spread.clamp(min=0.5 * float(spread.mean()))
        layer.weight.mul_(gain.view(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias.copy_(-gain * y.mean(1))

    _on_first_call(layer, rescale)


def _on_first_call(layer: nn.Module, action: Callable[[Any, Tensor], None]) -> None:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        handle.remove()
        action(layer, inputs[0])

    handle = layer.register_forward_pre_hook(hook)
