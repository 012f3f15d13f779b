"""What made a labelled JSON, in words."""

from collections.abc import Sequence
from typing import Any

from plgen_ddp.plurals import counted
from plgen_ddp.report.label_file import LabelFile


def threshold_in_words(labels: LabelFile) -> str:
    """At which threshold the labels were kept, and how it was chosen."""
    if not labels.thresholds:
        return "The file does not say at which threshold they were kept."
    kept = f"a score above {thresholds_in_short(labels.thresholds)}"
    if isinstance(labels.recorded("label", "score_threshold"), dict):
        kept += ", one threshold for each name"
    wanted = labels.recorded("label", "per_image")
    how = {
        "fixed": "as the config gives it (label.threshold=fixed)",
        "f_beta_base": "the threshold with the best F-beta on base names (label.threshold=f_beta_base)",
        "precision": "the lowest threshold at which enough labels of base names are right (label.threshold=precision)",
        "density": f"the threshold that gives {wanted} labels an image (label.threshold=density)",
    }.get(str(labels.recorded("label", "threshold")), "and the file does not say how it was chosen")
    return f"Kept are boxes with {kept}, {how}."


def thresholds_in_short(thresholds: Sequence[float]) -> str:
    """The threshold, or the lowest and the highest of several."""
    low, high = (f"{value:.3g}" for value in (min(thresholds), max(thresholds)))
    return low if low == high else f"{low} to {high}"


def facts_of(file: LabelFile) -> list[tuple[str, str]]:
    """What made the labels, as (what, value)."""
    identity, label = (found if isinstance(found := file.recorded(key), dict) else {} for key in ("store", "label"))
    templates = label.get("templates")
    failed, absent = file.recorded("images_failed"), file.recorded("images_not_scored")
    rule = ", ".join(f"{key} {label[key]}" for key in ("class_score", "box_score", "fusion") if label.get(key))
    facts = [
        ("Dataset", _dataset(file)),
        ("Boxes by", _weights(identity.get("detector"))),
        ("Names by", _weights(identity.get("clip"))),
        ("Rule", rule),
        ("Prompts", counted(len(templates), "template") if isinstance(templates, list) and templates else ""),
        ("Speed of scoring", file.speed or "not recorded beside the labels"),
        ("Failures", _failures(failed)),
        ("Not scored", counted(absent, "image") if absent else ""),
        ("Version", f"plgen_ddp {file.recorded('version') or 'unknown'}"),
    ]
    return [(what, value) for what, value in facts if value]


def _failures(failed: Any) -> str:
    """The fact about `images_failed`, which a file may hold as anything."""
    if failed is None:
        return "not recorded"
    return f"{counted(failed, 'image')} could not be scored" if failed else "none"


def _dataset(file: LabelFile) -> str:
    name, digest = file.recorded("annotations", "name"), file.recorded("annotations", "sha256")
    known = f" (SHA-256 {str(digest)[:12]}…)" if digest else ""
    return f"{name or file.path.name}{known}, {counted(len(file.file.images), 'image')}"


def _weights(identity: Any) -> str:
    """A model's own words for itself: texts and short numbers, a checksum by its beginning."""
    if not isinstance(identity, dict):
        return ""
    words = []
    for key, value in identity.items():
        if isinstance(value, str) and key in ("weights", "sha256", "model", "name", "architecture", "config", "source"):
            words.append(f"{key} {value if len(value) <= 40 else value[:12] + '…'}")
    return ", ".join(words) or ", ".join(f"{key} {str(value)[:20]}" for key, value in list(identity.items())[:4])
