"""Weights files: opened once, hashed and read through the same descriptor, and read without running code.

Whatever a file is called, its first bytes say what it is: PyTorch's zip or older format, safetensors, or a pickle of
arrays, as detectron2's backbones are. From each, only tensors and arrays in plain containers are read.
"""

import json
import math
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from plgen_ddp.errors import UserError, first_sentence, one_line
from plgen_ddp.files import digest_of, open_regular, url_scheme

# The first pickle of PyTorch's older format is this number.
_OLDER_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LONGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors library
# Times an archive's size. Compressed float16 weights, as `export_weights` writes them, unfold to 2 to 6 times theirs.
_MOST_UNFOLDED = 20
_LONGEST_CODE = 10_000_000  # bytes of source in an archive of TorchScript; OpenAI's have less than a tenth of it
_FIX = (
    "save the tensors alone where you trust the file, by torch.save(model.state_dict(), FILE) or "
    "safetensors.torch.save_file(model.state_dict(), FILE)"
)


class WeightFile:
    """An open file of weights. Close it, or use it as a context.

    Attributes:
        path: as it was given.
        sha256: of its content, hexadecimal.
    """

    def __init__(self, path: Path, option: str) -> None:
        """Opens and hashes `path`.

        Args:
            option: the option that named it, for messages.

        Raises:
            UserError: a URL, no file, or a folder, a pipe or a device.
        """
        refuse_url(str(path), option)
        self.path, self._option = path, option
        self._file = _opened(path, option)
        self.sha256 = digest_of(self._file)

    def __enter__(self) -> "WeightFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @property
    def descriptor(self) -> str:
        """A path of this very file for libraries that open paths, whatever has taken its name since."""
        return f"/dev/fd/{self._file.fileno()}"

    def read(self) -> Any:
        """What the file holds: a mapping of names to tensors, mostly. Arrays become tensors.

        Raises:
            UserError: damaged, of another kind, or it would run code.
        """
        try:
            return _as_tensors(self._content())
        except UserError:
            raise
        except Exception as error:  # damaged or hostile content can make the readers raise anything
            raise UserError(f"{self._option}: {self.path} is not a checkpoint of tensors: {_reason(error)}") from None

    def is_torchscript(self) -> bool:
        """Whether it is an archive of TorchScript: a model with its code, which runs when the archive is loaded."""
        return any(
            member.filename.endswith("/constants.pkl") or "/code/" in member.filename for member in self._members()
        )

    def torchscript_code(self) -> list[bytes]:
        """The Python-like source in an archive of TorchScript; nothing of it is run."""
        members = [member for member in self._members() if "/code/" in member.filename]
        sources = [member for member in members if member.filename.endswith(".py")]
        if not sources or sum(member.file_size for member in sources) > _LONGEST_CODE:
            return []
        with zipfile.ZipFile(self._rewound()) as archive:
            return [archive.read(source) for source in sources]

    def content(self) -> bytes:
        """All bytes of the file."""
        return self._rewound().read()

    def metadata(self) -> dict[str, str]:
        """The texts in a safetensors header; empty for other files."""
        if not self._is_safetensors():
            return {}
        try:
            length = int.from_bytes(self._rewound().read(8), "little")
            texts = json.loads(self._file.read(length)).get("__metadata__")
            return dict(texts) if isinstance(texts, dict) else {}
        except ValueError:  # `read` says what is wrong
            return {}

    def _content(self) -> Any:
        if self._is_safetensors():
            with safe_open(self.descriptor, framework="pt", device="cpu") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        if self.is_torchscript():
            raise ValueError("it is an archive of TorchScript, which holds code; give the state dict of its model")
        # Compressed or overlapping members could unfold to any size. torch stores tensors as they are.
        if sum(member.file_size for member in self._members()) > _MOST_UNFOLDED * os.fstat(self._file.fileno()).st_size:
            raise ValueError(f"it is an archive that unfolds to more than {_MOST_UNFOLDED} times its size")
        head = self._rewound().read(len(_OLDER_TORCH))
        self._rewound()
        if head.startswith(b"PK") or head == _OLDER_TORCH:
            with torch.serialization.safe_globals(_TORCH_GLOBALS):
                return torch.load(self._file, map_location="cpu", weights_only=True)
        return _ArrayUnpickler(self._file, encoding="latin1").load()

    def _is_safetensors(self) -> bool:
        head = self._rewound().read(9)
        return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER

    def _members(self) -> list[zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(self._rewound()) as archive:
                return archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return []

    def _rewound(self) -> BinaryIO:
        self._file.seek(0)
        return self._file


def refuse_url(given: str, option: str) -> None:
    """Refuses a URL, also one of detectron2's own prefixes: no option reads from the network.

    Raises:
        UserError: with what to do instead.
    """
    if not (scheme := url_scheme(given)):
        return
    url = given
    if scheme[1] == "detectron2":
        url = "https://dl.fbaipublicfiles.com/detectron2/" + given[scheme.end() :]
    raise UserError(f"{option}: {given} is a URL, and only files are read: download {url} and give the file")


def state_of(content: Any, wrappers: Iterable[str] = ("model",)) -> dict[str, Tensor] | None:
    """The state dict in what a file holds: the content itself, or what it has under the first of `wrappers`.

    The prefix `module.`, which DistributedDataParallel adds to every name, is taken away.

    Returns:
        None where it is no mapping of names to tensors.
    """
    if not isinstance(content, dict):
        return None
    state = next((content[name] for name in wrappers if isinstance(content.get(name), dict)), content)
    named = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if named and all(name.startswith("module.") for name in named):
        named = {name.removeprefix("module."): value for name, value in named.items()}
    return named or None


def check_finite(state: Mapping[str, Any], where: str) -> None:
    """Checks that all weights are numbers.

    Args:
        where: the option and the file, for messages.

    Raises:
        UserError: NaN or infinity in one of the tensors.
    """
    numbers = {name: value for name, value in state.items() if isinstance(value, Tensor) and value.is_floating_point()}
    broken = [name for name, value in numbers.items() if not value.isfinite().all()]
    if broken:
        raise UserError(
            f"{where} has NaN or infinity in {len(broken)} of {len(state)} tensors, the first is {broken[0]}; take "
            "a checkpoint from before the training diverged"
        )


def _opened(path: Path, option: str) -> BinaryIO:
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise UserError(f"{option}: no file at {path}") from None
    except IsADirectoryError:
        raise UserError(f"{option}: {path} is a folder") from None
    except PermissionError as error:
        raise UserError(f"{option}: cannot read {path}: {error.strerror}") from None


def _reason(error: Exception) -> str:
    """Why a reader refused. torch's own message goes on to advise loading the file so that its code runs."""
    text = one_line(error)
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it names {named[1]}, which could run code; {_FIX}"
    if "WeightsUnpickler error: " in str(error) or text.startswith("Weights only load failed"):
        return f"it holds more than tensors in plain containers; {_FIX}"
    if isinstance(error, (EOFError, KeyError, pickle.UnpicklingError)):
        return "it is damaged, or neither PyTorch's format nor safetensors nor a pickle of arrays"
    return first_sentence(error) or type(error).__name__


def _as_tensors(value: Any, depth: int = 3) -> Any:
    if isinstance(value, _Array):
        value = value.tensor
    if isinstance(value, Tensor):
        if value.is_sparse or value.is_quantized or value.device.type != "cpu":
            raise ValueError("it holds a tensor that is not plain numbers in memory")
        # A tensor can claim any shape over a few bytes, and every copy of it would take that much memory.
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError("it holds a tensor larger than its data")
        return value
    if isinstance(value, dict) and depth:
        return {name: _as_tensors(item, depth - 1) for name, item in value.items()}
    return value


class _DType:
    """What a pickle says of a NumPy type. NumPy's own reader would take more from a pickle than names of numbers."""

    def __init__(self, name: str, *_: object) -> None:
        name = name.decode() if isinstance(name, bytes) else name
        if not re.fullmatch(r"[<>|=]?[?bBhHiIlLqQefdu][1248]?", name):
            raise ValueError(f"it holds an array of type {name!r}; only numbers are read")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """What a pickle says of a NumPy array."""

    def __init__(self) -> None:
        self.tensor = torch.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, described, by_columns, raw = state
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        values = np.frombuffer(data, described.dtype)
        if len(values) != math.prod(shape):
            raise ValueError(f"it holds an array of {shape} with {len(values)} values")
        values = values.reshape(shape, order="F" if by_columns else "C")
        self.tensor = torch.from_numpy(np.array(values, values.dtype.newbyteorder("="), order="C"))


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(described: _DType, raw: bytes | str) -> Any:
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(data, described.dtype)[0].item()


# What replaces NumPy's names in a pickle. torch builds only objects whose class is among them.
_NUMPY: dict[str, Any] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _DType,
    **{
        f"{module}.multiarray.{name}": stand_in
        for module in ("numpy.core", "numpy._core")
        for name, stand_in in (("_reconstruct", _reconstruct), ("scalar", _scalar))
    },
}
_TORCH_GLOBALS: list[Any] = [(stand_in, name) for name, stand_in in _NUMPY.items()]


class _ArrayUnpickler(pickle._Unpickler):
    """Reads arrays in plain containers and nothing else: a pickle could otherwise run any code.

    Python's own reader, since the faster one in C takes memory for any number that a pickle claims.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("collections", "OrderedDict"), ("_codecs", "encode")):
            return super().find_class(module, name)
        if f"{module}.{name}" not in _NUMPY:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return _NUMPY[f"{module}.{name}"]
