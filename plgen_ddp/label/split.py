"""The novel-only validation split: the annotations of the novel names, and the images that have one."""

from dataclasses import dataclass
from pathlib import Path

from plgen_ddp import __version__
from plgen_ddp.coco import CocoFile
from plgen_ddp.config import Config
from plgen_ddp.errors import UserError
from plgen_ddp.files import check_output
from plgen_ddp.label.labelled_file import check_unlabelled
from plgen_ddp.label.vocabulary import read_vocabulary
from plgen_ddp.options import given
from plgen_ddp.records import PseudoLabels


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """What a split holds; see `split_novel`."""

    path: Path
    images: int
    annotations: int


def split_novel(config: Config, output: Path) -> SplitSummary:
    """Writes `data.annotations` with the annotations of the novel names alone, as VL-PLM's split_coco_for_OVD does.

    Images without such an annotation are left out; one that has only a crowd stays. Categories, other keys and the
    bytes of every entry stay as they are; `info` says what made the file.

    Raises:
        UserError: an unreadable JSON, one of pseudo labels, a name that it lacks, no annotation of any name, or an
            output that is an input.
    """
    coco = CocoFile(given(config.data.annotations), "data.annotations")
    check_output(output, "--output", {"data.annotations": coco.path, "label.vocabulary": config.label.vocabulary})
    check_unlabelled(coco, "data.annotations", "real annotations, or evaluation would take the labels for them")
    vocabulary = read_vocabulary(config).of_json(coco)
    novel_ids = set(vocabulary.category_ids(coco.categories())[0])
    known = {image.id for image in coco.images()}
    images = {key.image_id for key in coco.annotation_keys() if key.category_id in novel_ids} & known
    if not images:
        raise UserError(f"data.annotations: {coco.path} has no annotation of the novel names in its images")
    provenance = {
        "version": __version__,
        "annotations": {"name": coco.path.name, "sha256": coco.sha256},
        "split": {"novel": list(vocabulary.novel)},
    }
    kept = coco.write_labelled(output, novel_ids, PseudoLabels.concatenate([]), provenance, sorted(images))
    return SplitSummary(output, len(images), kept)
