"""What a training starts from and goes on from: initial weights, its checkpoints, and the options it began with."""

import json
import warnings
from pathlib import Path
from typing import Any

from plgen_ddp.errors import UserError, one_line
from plgen_ddp.files import file_sha256, write_atomically
from plgen_ddp.options import given
from plgen_ddp.train.config import ProposalTrainingConfig
from plgen_ddp.train.data import TrainingData
from plgen_ddp.weight_files import WeightFile, check_finite

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # as in plgen_ddp.score.mask_rcnn
    from detectron2.checkpoint import DetectionCheckpointer


def open_output(config: ProposalTrainingConfig, data: TrainingData, weights: Path | None) -> None:
    """Writes what decides the training into `run.output`, or compares it with what a training there began with.

    Args:
        weights: the local file of `detector.weights`.

    Raises:
        UserError: the folder holds a training with other data or options.
    """
    path = Path(given(config.run.output)) / "training.json"
    identity = json.loads(json.dumps(training_identity(config, data, weights)))
    if not path.is_file() or not (path.parent / "last_checkpoint").is_file():  # before the first, nothing is lost
        write_atomically(path, iter([json.dumps(identity, indent=1).encode() + b"\n"]))
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"run.output: {path} is not readable: {one_line(error)}") from None
    changed = [name for name in identity if before.get(name) != identity[name]]
    if changed:
        was = ", ".join(f"{name} {_short(before.get(name))} -> {_short(identity[name])}" for name in changed)
        raise UserError(f"run.output: {path.parent} holds a training with other options: {was}; use another folder")


def training_identity(config: ProposalTrainingConfig, data: TrainingData, weights: Path | None) -> dict[str, Any]:
    """What decides the trained weights, by dotted option; files by their content."""
    return config.options_that_decide() | {
        "data.annotations": data.annotations_sha256,
        "data.pseudo_labels": data.pseudo_labels_sha256,
        # Without pseudo labels it decides nothing, and a training of an earlier version does not have it.
        "data.min_confidence": config.data.min_confidence if data.pseudo_labels else None,
        "data.vocabulary": data.base_sha256,
        "detector.config": file_sha256(config.detector_file()),
        "detector.weights": weights and file_sha256(weights),
    }


class TrainingCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer, which reads files by `WeightFile` and raises where that one only logs a misfit."""

    def start_from(self, weights: Path) -> None:
        """Loads initial weights: every tensor of the backbone, and of the other tensors those that the file has.

        Raises:
            UserError: no checkpoint of tensors, a tensor of another shape, or one of the backbone is not in it.
        """
        with_fpn = any(name.startswith("backbone.bottom_up.") for name in self.model.state_dict())
        self._option, self._required = "detector.weights", "backbone.bottom_up." if with_fpn else "backbone."
        self.load(str(weights), checkpointables=[])

    def resume(self, checkpoint: str) -> None:
        """Loads a checkpoint of this training: weights, optimizer, schedule, step.

        Raises:
            UserError: no such file here, or not a checkpoint of this detector.
        """
        if not Path(checkpoint).is_file():
            raise UserError(f"run.output: no file at {checkpoint}; the folder must be one that every node sees")
        self._option, self._required = "run.output", ""
        self.load(checkpoint)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Loads the file at `path` itself: detectron2's own takes what follows a `?` away and reads another one."""
        self._file = f"{self._option}: {path}"
        with WeightFile(Path(path), self._option) as file:
            checkpoint = _in_layout(file.read())
        if not isinstance(checkpoint.get("model"), dict):
            raise UserError(f"{self._file} is not a checkpoint: it holds no model")
        check_finite(checkpoint["model"], self._file)
        try:
            incompatible = self._load_model(checkpoint)
        except (RuntimeError, ValueError, KeyError, AttributeError, TypeError, AssertionError) as error:
            raise UserError(f"{self._file} does not fit detector.config: {one_line(error)}") from None
        self._log_incompatible_keys(incompatible)
        for name in self.checkpointables if checkpointables is None else checkpointables:
            if name in checkpoint:
                self.checkpointables[name].load_state_dict(checkpoint.pop(name))
        return checkpoint

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Names the newest checkpoint, once it is complete; a kill leaves the old name or the new one."""
        write_atomically(Path(self.save_dir) / "last_checkpoint", iter([last_filename_basename.encode()]))

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        if incompatible.incorrect_shapes:
            name, found, own = incompatible.incorrect_shapes[0]
            raise UserError(
                f"{self._file} does not fit detector.config: {name} has shape {found}, needed is {own} "
                f"({len(incompatible.incorrect_shapes)} tensors differ)"
            )
        missing = [name for name in incompatible.missing_keys if name.startswith(self._required)]
        if missing:
            raise UserError(
                f"{self._file} lacks {len(missing)} tensors that detector.config needs, the first is {missing[0]}"
            )


def _in_layout(content: Any) -> dict[str, Any]:
    """What a file holds, in the layout of detectron2's checkpoints.

    Files with an author hold names that detectron2 has to match, and so do those of Detectron and Caffe2, which hold
    their arrays alone, with Caffe2's names.
    """
    if not isinstance(content, dict):
        return {}
    if "model" in content:
        return content
    arrays = content.get("blobs", content)
    if not isinstance(arrays, dict):
        return {}
    if any("." in str(name) for name in arrays):  # a state dict; Caffe2's names have no dots
        return {"model": arrays}
    arrays = {name: value for name, value in arrays.items() if not str(name).endswith("_momentum")}
    return {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else text[:12] + "..."
