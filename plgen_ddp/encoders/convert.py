"""From a weights file of OpenAI's CLIP to safetensors, which hold tensors alone."""

from pathlib import Path

from plgen_ddp.config import ClipConfig
from plgen_ddp.encoders.clip_weights import ClipWeights, read_clip_weights, write_clip_weights
from plgen_ddp.encoders.openai_clip import find_clip, published_digests
from plgen_ddp.errors import UserError
from plgen_ddp.files import check_output


def convert_clip(
    source: str, output: Path, activation: str, *, allow_torchscript: bool
) -> tuple[ClipWeights, str | None]:
    """Writes the state dict of `source` to `output`.

    Args:
        source: what `clip.model` takes: a name, a state dict, or an archive of TorchScript.
        activation: of the model: quick_gelu, gelu, or auto for what the file says.

    Returns:
        What was read, and the activation that `output` says; None: nothing says it.

    Raises:
        UserError: no such file, or one that may not be read.
    """
    options = ClipConfig(model=source, activation=activation, allow_torchscript=allow_torchscript)
    if output.suffix != ".safetensors":
        raise UserError(f"--output: {output} must end in .safetensors")
    check_output(output, "--output", {"the file to convert": source})
    weights = read_clip_weights(find_clip(options), published_digests(), allow_torchscript)
    said = weights.activation if activation == "auto" else activation
    write_clip_weights(weights, said, output)
    return weights, said
