"""The data, the models and the names: each checked by the code that the run uses."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import torch

from plgen_ddp.coco import CocoFile
from plgen_ddp.config import Config
from plgen_ddp.doctor.findings import Finding, checked
from plgen_ddp.encoders.loading import fetch_encoder, load_encoder
from plgen_ddp.errors import UserError
from plgen_ddp.image_files import ImageIndex, index_images
from plgen_ddp.label.embed_names import check_name_lengths
from plgen_ddp.label.plan import plan_labelling
from plgen_ddp.label.vocabulary import read_templates, read_vocabulary
from plgen_ddp.options import given
from plgen_ddp.plurals import counted
from plgen_ddp.processor import available_cores
from plgen_ddp.score.box_files import check_boxes, read_boxes
from plgen_ddp.score.images import ImageFiles


class _Annotation(msgspec.Struct, gc=False):
    """An annotation of any form."""

    image_id: int | float | str | None = None
    category_id: int | float | str | None = None
    id: int | float | str | None = None
    bbox: Any = None


def check_data(config: Config, lacking: set[str], sample: int | None) -> Iterator[Finding]:
    """The JSON, where its images lie, and whether a sample of them can be decoded.

    Args:
        lacking: options without a value; what needs them is not checked.
        sample: how many images are decoded, drawn with a fixed seed; None: all.
    """
    if "data.annotations" in lacking:
        return
    annotations = Path(given(config.data.annotations))
    files: list[CocoFile] = []
    found = []

    def read() -> str:
        files.append(CocoFile(annotations, "data.annotations"))
        found.extend(files[0].images())
        return f"{annotations}: {counted(len(found), 'image')}"

    yield checked("JSON", read, "data.annotations takes a COCO-format JSON; launch/make_json.py makes one")
    if found:
        yield _annotations(files.pop(), {image.id for image in found})
    if not found or "data.image_root" in lacking:
        return
    indices: list[ImageIndex] = []

    def locate() -> str:
        root, links = given(config.data.image_root), config.data.follow_links
        indices.append(index_images(found, root, annotations, follow_links=links).first(config.data.limit))
        return f"{config.data.image_root}: the first is {indices[0].path(0)}"

    yield checked("images", locate, "data.image_root takes COCO's root, or the folder with the files")
    if indices:
        yield _decoded(indices[0], sample, config)
    if config.proposals.source is not None:
        source = Path(config.proposals.source)

        def boxes() -> str:
            columns = read_boxes(source)
            check_boxes(columns, source, found)
            return f"{source}: {counted(len(columns), 'box', 'boxes')}"

        yield checked("boxes", boxes, "")


def check_models(config: Config, lacking: set[str], report: Callable[[Finding], None]) -> int | None:
    """Reports whether the detector's weights fit its config, and whether the encoder loads; both on the CPU.

    Returns:
        The length of an embedding; None where the encoder did not load.
    """
    if config.proposals.source is None and not lacking & {"detector.config", "detector.weights"}:
        report(checked("detector", lambda: _build_detector(config), "give the config and the weights of one detector"))
    dims = []

    def build_encoder() -> str:
        dims.append(load_encoder(config.clip, fetch_encoder(config.clip), torch.device("cpu"), "fp32").dim)
        return f"{config.clip.model}: embeddings of {dims[0]} numbers"

    report(checked("encoder", build_encoder, "clip.model takes a known name or a weights file"))
    return dims[0] if dims else None


def check_names(config: Config, lacking: set[str]) -> Iterator[Finding]:
    """Names, templates, and the labelling that they make: thresholds, output, lengths of prompts."""
    findings = []
    if "label.vocabulary" not in lacking:
        remedy = "label.vocabulary takes the novel names; README says how"
        findings.append(checked("names", lambda: f"{len(read_vocabulary(config).novel) or 'chosen'} novel", remedy))
    if "label.templates" not in lacking:
        remedy = "label.templates takes a text file or a list"
        findings.append(checked("templates", lambda: f"{len(read_templates(config))} templates", remedy))
    yield from findings
    needed = {"label.vocabulary", "label.templates", "run.output", "data.annotations"}
    if lacking & needed or any(finding.level == "error" for finding in findings):
        return

    def plan() -> str:
        planned = plan_labelling(config)
        check_name_lengths(planned)
        return f"{len(planned.novel_ids)} novel and {len(planned.base_ids)} base names, into {planned.output}"

    yield checked("labelling", plan, "correct label.vocabulary, label.templates or label.output")


def _annotations(coco: CocoFile, image_ids: set[int]) -> Finding:
    """Whether the JSON's annotations are whole: they go into the labelled JSON as they are, and training reads them."""
    try:
        rows, known = coco.entries("annotations", _Annotation), {category.id for category in coco.categories()}
    except UserError as error:
        return Finding("annotations", "error", str(error), "mend them, or take a JSON without annotations")
    wrong = {
        "have no box": sum(not _is_box(row.bbox) for row in rows),
        "are of images that it lacks": sum(row.image_id not in image_ids for row in rows),
        "are of categories that it lacks, and are left out": sum(row.category_id not in known for row in rows),
        "have the id of another": len(rows) - len({row.id for row in rows}),
    }
    if not any(wrong.values()):
        return Finding("annotations", "ok", f"{len(rows)}, each with a box of an image and a category")
    said = ", ".join(f"{count} {what}" for what, count in wrong.items() if count)
    return Finding("annotations", "warning", f"of {len(rows)} {said}", "mend them, or other programs refuse the labels")


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(side, (int, float)) for side in value)


def _decoded(index: ImageIndex, sample: int | None, config: Config) -> Finding:
    positions = list(range(len(index)))
    if sample is not None and sample < len(positions):
        positions = sorted(random.Random(0).sample(positions, sample))
    files = ImageFiles(index, None, config.data)
    with ThreadPoolExecutor(available_cores()) as pool:
        failures = [row for row in pool.map(lambda position: files[position].failure, positions) if row is not None]
    if not failures:
        return Finding("decoding", "ok", f"{len(positions)} of {counted(len(index), 'image')} looked at")
    shown = ", ".join(f"image {row.image_id}: {row.failure.reason}" for row in failures[:3] if row.failure)
    message = f"{len(failures)} of {counted(len(positions), 'image')} cannot be read: {shown}"
    remedy = "mend or remove them, or allow that many with run.max_failures"
    return Finding("decoding", "error" if len(failures) > config.run.max_failures else "warning", message, remedy)


def _build_detector(config: Config) -> str:
    try:
        from plgen_ddp.score import mask_rcnn
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "detectron2":
            raise
        raise UserError("detectron2 is not installed; `make setup` installs it") from None
    cfg = mask_rcnn.read_detector_config(Path(given(config.detector.config)), config.detector)
    weights = mask_rcnn.find_weights(given(config.detector.weights))
    mask_rcnn.MaskRcnn(cfg, weights, config.detector, torch.device("cpu"))
    return f"{weights} fits {config.detector.config}"
