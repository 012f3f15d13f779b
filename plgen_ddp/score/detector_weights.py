"""The detector's checkpoint: read without running code, and matched with the model name by name."""

from pathlib import Path

from torch import Tensor, nn

from plgen_ddp.errors import UserError
from plgen_ddp.weight_files import WeightFile, check_finite, state_of

_OPTION = "detector.weights"
# Stage 1 takes the first from detector.config and runs no mask or keypoint head.
_NOT_NEEDED = ("pixel_", "roi_heads.mask_", "roi_heads.keypoint_")
# Parts of older checkpoints, and of norms that are frozen since.
_LEFT_OVERS = ("anchor_generator.cell_anchors", ".num_batches_tracked")


def read_detector_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The state dict of a detectron2 detector, and the SHA-256 of the file that it comes from.

    Raises:
        UserError: a URL, no file, a file that would run code, or no detector's checkpoint.
    """
    with WeightFile(path, _OPTION) as file:
        state = state_of(file.read()) or {}
        if not any(name.startswith("proposal_generator.") for name in state):
            raise UserError(f"{_OPTION}: {path} holds no detectron2 detector: no proposal_generator.* tensors in it")
        return state, file.sha256


def load_detector_weights(model: nn.Module, given: dict[str, Tensor], path: Path) -> None:
    """Loads a state dict from `read_detector_weights`; `path` is for messages.

    Raises:
        UserError: a tensor is missing, has another shape, is unknown to the model, or is not finite.
    """
    own = model.state_dict()
    needed = [name for name in own if not name.startswith(_NOT_NEEDED)]
    missing = [name for name in needed if name not in given]
    if missing:
        raise UserError(
            f"{_OPTION}: {path} lacks {len(missing)} of the {len(needed)} tensors of detector.config, "
            f"the first is {missing[0]}"
        )
    wrong = [name for name in needed if given[name].shape != own[name].shape]
    if wrong:
        raise UserError(
            f"{_OPTION}: {wrong[0]} of {path} has shape {tuple(given[wrong[0]].shape)}, "
            f"detector.config needs {tuple(own[wrong[0]].shape)} ({len(wrong)} tensors differ)"
        )
    unknown = [
        name
        for name in given
        if name not in own and not name.startswith(_NOT_NEEDED) and not any(part in name for part in _LEFT_OVERS)
    ]
    if unknown:
        raise UserError(
            f"{_OPTION}: {path} has {len(unknown)} tensors that detector.config does not, the first is {unknown[0]}; "
            "give the config that it was trained with"
        )
    chosen = {name: given[name] for name in needed}
    # A mask head is loaded where it fits: stage 1 does not run it, and nothing is left at random without need.
    heads = [name for name in own if name.startswith(_NOT_NEEDED[1:]) and name in given]
    chosen |= {name: given[name] for name in heads if given[name].shape == own[name].shape}
    check_finite(chosen, f"{_OPTION}: {path}")
    model.load_state_dict(chosen, strict=False)
