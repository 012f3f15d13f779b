"""What a training starts from and goes on from: initial weights, its checkpoints, and the options it began with."""

import json
import pickle
from pathlib import Path
from typing import Any

from plgen_ddp.errors import UserError, first_sentence, one_line
from plgen_ddp.files import file_sha256, write_atomically
from plgen_ddp.options import given
from plgen_ddp.score.mask_rcnn import SafeCheckpointer
from plgen_ddp.train.config import ProposalTrainingConfig
from plgen_ddp.train.data import TrainingData


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


class TrainingCheckpointer(SafeCheckpointer):
    """detectron2's checkpointer; where that one only logs what does not fit, this one raises."""

    def start_from(self, weights: Path) -> None:
        """Loads initial weights: every tensor of the backbone, and of the other tensors those that the file has.

        Raises:
            UserError: no checkpoint of tensors, a tensor of another shape, or one of the backbone is not in it.
        """
        with_fpn = any(name.startswith("backbone.bottom_up.") for name in self.model.state_dict())
        self._option = f"detector.weights: {weights}"
        self._required = "backbone.bottom_up." if with_fpn else "backbone."
        self.load(str(weights), checkpointables=[])

    def resume(self, checkpoint: str) -> None:
        """Loads a checkpoint of this training: weights, optimizer, schedule, step.

        Raises:
            UserError: no such file here, or not a checkpoint of this detector.
        """
        if not Path(checkpoint).is_file():
            raise UserError(f"run.output: no file at {checkpoint}; the folder must be one that every node sees")
        self._option, self._required = f"run.output: {checkpoint}", ""
        self.load(checkpoint)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Names the newest checkpoint, once it is complete; a kill leaves the old name or the new one."""
        write_atomically(Path(self.save_dir) / "last_checkpoint", iter([last_filename_basename.encode()]))

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            loaded = _read_arrays(filename) if filename.endswith(".pkl") else super()._load_file(filename)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{self._option} is not a checkpoint of tensors: {first_sentence(error)}") from None
        if not isinstance(loaded.get("model"), dict):
            raise UserError(f"{self._option} is not a checkpoint: it holds no model")
        return loaded

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        if incompatible.incorrect_shapes:
            name, found, own = incompatible.incorrect_shapes[0]
            raise UserError(
                f"{self._option} does not fit detector.config: {name} has shape {found}, needed is {own} "
                f"({len(incompatible.incorrect_shapes)} tensors differ)"
            )
        missing = [name for name in incompatible.missing_keys if name.startswith(self._required)]
        if missing:
            raise UserError(
                f"{self._option} lacks {len(missing)} tensors that detector.config needs, the first is {missing[0]}"
            )


class _ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays in plain containers and nothing else: a pickle could otherwise run any code."""

    _KNOWN = frozenset(
        {
            ("collections", "OrderedDict"),
            ("_codecs", "encode"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, and only arrays are read from a pickle")
        return super().find_class(module, name)


def _read_arrays(filename: str) -> dict[str, Any]:
    """A .pkl of weights in one of the layouts that detectron2 knows: its own, Detectron's, Caffe2's."""
    with Path(filename).open("rb") as file:
        data = _ArrayUnpickler(file, encoding="latin1").load()
    if not isinstance(data, dict):
        raise ValueError("no mapping of names to arrays")
    if "model" in data and "__author__" in data:
        return data
    arrays = {name: value for name, value in data.get("blobs", data).items() if not name.endswith("_momentum")}
    return {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else text[:12] + "..."
