"""From crops to unit vectors, for any image tower: normalised input, eager or compiled."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from plgen_ddp.encoders.encoder import Preprocessing
from plgen_ddp.errors import UserError, one_line


class CropEncoder:
    """The image side of an encoder."""

    def __init__(
        self, features: Callable[[Tensor], Tensor], preprocessing: Preprocessing, device: torch.device
    ) -> None:
        """
        Args:
            features: the image tower: normalised pixels float32 (k, 3, resolution, resolution), RGB, to features (k, d)
                of any length.
        """
        self._features = features
        self._resolution = preprocessing.resolution
        self._device = device
        # The models' own input path: uint8 / 255, minus mean, over std.
        self._mean = torch.tensor(preprocessing.mean_rgb, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std_rgb, device=device).view(1, 3, 1, 1)
        self._embed: Callable[[Tensor], Tensor] = self._embed_eagerly

    @torch.no_grad()  # and not inference_mode, which torch.compile cannot trace through views of the weights
    def __call__(self, crops_bgr: Tensor) -> Tensor:
        """Unit-length embeddings float32 (k, d) of crops uint8 (k, 3, resolution, resolution) in BGR order."""
        return self._embed(crops_bgr)

    def compile(self, batch_size: int) -> None:
        """Compiles the call for batches of `batch_size` crops, now.

        Raises:
            UserError: torch.compile failed, mostly for want of a working compiler.
        """
        side = self._resolution
        crops = torch.zeros(batch_size, 3, side, side, dtype=torch.uint8, device=self._device)
        try:
            self._embed = torch.compile(self._embed_eagerly, dynamic=False)
            self(crops)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, OSError) as error:
            why = one_line(getattr(error, "inner_exception", error))
            raise UserError(
                f"clip.compile: torch.compile failed: {why}; mend it (it needs a C++ compiler, Python's headers and a "
                "cache folder), or use clip.compile=false"
            ) from None

    def _embed_eagerly(self, crops_bgr: Tensor) -> Tensor:
        # Channel 0 of BGR is blue.
        pixels = crops_bgr.flip(1).to(self._device).float().div_(255).sub_(self._mean).div_(self._std)
        return functional.normalize(self._features(pixels).float(), dim=-1)
