"""The score thresholds that `label.score_threshold` gives: one number, or one for each novel name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plgen_ddp.config import LabelConfig, checked_thresholds
from plgen_ddp.errors import UserError, suggestion
from plgen_ddp.label.vocabulary import read_yaml

_OTHERS = "default"


def read_score_thresholds(options: LabelConfig, novel: Sequence[str]) -> np.ndarray:
    """The threshold of each novel name, float64 (names,).

    Raises:
        UserError: an unreadable file, a name that is not novel, or a novel name without a number and no `default`.
    """
    key, given = "label.score_threshold", options.score_threshold
    if isinstance(given, str):
        given = checked_thresholds(read_yaml(Path(given), key), f"{key}: {given}")
    if not isinstance(given, dict):
        return np.full(len(novel), given)
    known = set(novel)
    for name in given:
        if name != _OTHERS and name not in known:
            raise UserError(f"{key}: {name!r} is not a novel name{suggestion(name, novel)}")
    absent = [name for name in novel if name not in given]
    if absent and _OTHERS not in given:
        raise UserError(f"{key}: no number for {', '.join(map(repr, absent[:5]))}, and no `{_OTHERS}`")
    return np.array([given.get(name, given.get(_OTHERS)) for name in novel], np.float64)
