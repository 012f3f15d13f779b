"""What labelling costs: the reference's stage 2 and this package's label command on the same boxes and scores.

Each run is a process of its own, timed from its start to its end. Ours starts from the embeddings, the reference from
scores that are computed already.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from omegaconf import OmegaConf

from plgen_ddp.benchmark.hardware import hardware
from plgen_ddp.benchmark.synthetic_store import (
    SyntheticData,
    synthetic_text_embedding,
    write_synthetic_data,
    write_synthetic_json,
)
from plgen_ddp.benchmark.tables import markdown
from plgen_ddp.coco import CocoFile
from plgen_ddp.config import Config, load_config
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.label.class_scores import best_names, cosines, probabilities
from plgen_ddp.label.plan import LabelPlan, plan_labelling
from plgen_ddp.label.text_embeddings import TextEmbeddings
from plgen_ddp.label.vocabulary import read_vocabulary

# What the reference has a stage 2 for: the weight of objectness and the threshold.
_RECIPES = {"coco_vlplm": (0.5, 0.8), "coco_marvelovd": (0.0, 0.5)}
_IMAGES_PER_FILE = 1000  # of scores, as both projects write them
_DIM = 512


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """What to measure.

    Attributes:
        work: folder for the store, the JSON and the outputs; none of an earlier run.
        images: of the store. reference_images: how many of them, from the first on, the reference labels.
        presets: configurations to label with. The reference runs the first one that is a recipe.
        names: numbers of novel names; the first preset is run with each of them too.
        seed: of the store.
        overrides: `section.key=value` words for every labelling.
    """

    work: Path
    images: int = 1000
    reference_images: int | None = None
    presets: tuple[str, ...] = ("coco_vlplm", "coco_marvelovd")
    names: tuple[int, ...] = ()
    seed: int = 0
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelMeasurement:
    """One timed run.

    Attributes:
        name: "reference" or the preset.
        names: novel names.
        images, labels: images labelled, pseudo labels made.
        seconds: from the start of the process to its end. processor_seconds: over all cores.
        peak_memory: bytes.
    """

    name: str
    names: int
    images: int
    labels: int
    seconds: float
    processor_seconds: float
    peak_memory: int


@dataclass(frozen=True, slots=True)
class LabelReport:
    """The runs, and what a reader of their figures must know."""

    hardware: str
    notes: tuple[str, ...]
    runs: tuple[LabelMeasurement, ...]

    def markdown(self) -> str:
        """The hardware, the notes and the table."""
        reference = next((run for run in self.runs if run.name == "reference"), None)

        def ratio(run: LabelMeasurement) -> str:
            if reference is None:
                return ""
            return f"{run.images / run.seconds / (reference.images / reference.seconds):.1f}"

        table = markdown(
            {
                "run": lambda run: run.name,
                "names": lambda run: f"{run.names}",
                "images": lambda run: f"{run.images}",
                "labels an image": lambda run: f"{run.labels / run.images:.2f}",
                "seconds": lambda run: f"{run.seconds:.1f}",
                "images/s": lambda run: f"{run.images / run.seconds:.4g}",
                "ratio": ratio,
                "processor s": lambda run: f"{run.processor_seconds:.1f}",
                "memory GB": lambda run: f"{run.peak_memory / 1e9:.2f}",
            },
            self.runs,
        )
        return "\n".join([self.hardware, *self.notes, "", table])

    def measurements(self) -> list[LabelMeasurement]:
        """Every run, in the order in which they ran."""
        return list(self.runs)


def measure_labelling(options: LabelOptions) -> LabelReport:
    """Writes the store and measures one run after the other.

    Raises:
        UserError: an option that makes no sense here, or a run that failed.
    """
    if options.work.exists() and any(options.work.iterdir()):
        raise UserError(f"--work: {options.work} is not empty; choose another folder")
    first = load_config(options.presets[0], options.overrides)
    for preset in options.presets:
        load_config(preset, options.overrides)
    vocabulary = read_vocabulary(first)
    drawn = [*vocabulary.novel, *(vocabulary.base or ())]
    more = [f"thing {number}" for number in range(max([0, *options.names]) - len(vocabulary.novel))]
    print_line(f"writing a store of {options.images} images", error=True)
    data = write_synthetic_data(options.work, drawn, options.images, dim=_DIM, seed=options.seed, other_names=more)
    notes, runs = [f"boxes: 100 an image, {_DIM} dimensions, drawn from seed {options.seed}"], []

    recipe = next((preset for preset in options.presets if preset in _RECIPES), None)
    if recipe is not None:
        count = min(options.reference_images or options.images, options.images)
        notes.append(
            f"reference: {recipe} from computed scores, on "
            + ("all images" if count == options.images else f"the first {count} of {options.images} images, their JSON")
            + "; ratio: of images a second"
        )
        runs.append(_measure_reference(options, data, recipe, drawn, more, count))
    for preset in options.presets:
        runs.append(_measure_labels(options, preset, len(vocabulary.novel), ()))
    for names in options.names:
        chosen = {"novel": [*vocabulary.novel, *more][:names], "base": list(vocabulary.base or ())}
        file = options.work / f"names_{names}.yaml"
        OmegaConf.save(OmegaConf.create(chosen), file)
        runs.append(_measure_labels(options, options.presets[0], names, (f"label.vocabulary={file}",)))
    return LabelReport(hardware(), tuple(notes), tuple(runs))


def _config(options: LabelOptions, preset: str, words: Sequence[str]) -> tuple[Config, list[str]]:
    """A configuration that labels the store, and the words that make it of the preset."""
    name = f"{preset}-{len(words)}"
    words = [*options.overrides, *words, f"run.output={options.work}", f"label.output={options.work / name}.json"]
    # Text embeddings are drawn, a prompt each; no encoder made this store.
    words += ["label.templates=['{}']", "label.text_embeddings=none"]
    return load_config(preset, words), words


def _measure_labels(options: LabelOptions, preset: str, names: int, words: Sequence[str]) -> LabelMeasurement:
    """The label command as a user starts it, with text embeddings in its store."""
    config, words = _config(options, preset, words)
    plan = plan_labelling(config)
    _embed(plan, options.work)
    command = [sys.executable, "-m", "plgen_ddp.launch.label", "--config", preset, *words]
    return _timed(options, preset, names, options.images, command, plan.output)


def _embed(plan: LabelPlan, work: Path) -> np.ndarray:
    """The text embeddings of a plan's words, float32 (words, d); kept in the store."""
    cache = TextEmbeddings(work / "store" / "vocabulary", plan.templates, _DIM, plan.config.clip.text_precision)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return np.stack([synthetic_text_embedding(text, _DIM) for text in texts])

    return cache.embed(plan.table.words, lambda: encode)


def _measure_reference(
    options: LabelOptions, data: SyntheticData, preset: str, drawn: Sequence[str], more: Sequence[str], count: int
) -> LabelMeasurement:
    print_line(f"writing the reference's scores of {count} images", error=True)
    config, _ = _config(options, preset, ())
    plan = plan_labelling(config)
    annotations = data.annotations
    if count < options.images:
        annotations = options.work / "reference_annotations.json"
        write_synthetic_json(annotations, drawn, count, seed=options.seed, other_names=more)
    scores, output = options.work / "scores", options.work / "reference.json"
    _write_scores(data, plan, _embed(plan, options.work), scores, count)
    weight, threshold = _RECIPES[preset]
    base = ",".join(map(str, plan.base_ids))
    module = "plgen_ddp.benchmark.reference_labelling"
    words = [str(annotations), str(scores), str(output), str(weight), str(threshold), base]
    command = [sys.executable, "-m", module, *words]
    return _timed(options, "reference", len(plan.novel_ids), count, command, output)


def _write_scores(data: SyntheticData, plan: LabelPlan, texts: np.ndarray, folder: Path, count: int) -> None:
    """The likeliest novel name of each box and its probability, in the reference's form."""
    folder.mkdir()
    similarity = data.store.manifest().similarity
    rows: list[tuple[int, list[list[float]], list[float], list[list[float]], list[list[int]]]] = []
    keys = ("img_ids_list", "bbox_all_list", "rpn_score_all_list", "clip_score_all_list", "clip_catIDs_all_list")
    images = (image for path in data.store.part_paths() for image in data.store.read_part(path))
    for number, image in enumerate(images):
        if number == count:
            break
        name, score = best_names(probabilities(cosines(image.embeddings, texts), similarity), len(plan.novel_ids))
        ids = plan.novel_ids[name][:, None].tolist()
        rows.append(
            (image.image_id, image.boxes_xyxy.tolist(), image.objectness.tolist(), score[:, None].tolist(), ids)
        )
        if len(rows) == _IMAGES_PER_FILE or number == count - 1:
            content = dict(zip(keys, map(list, zip(*rows, strict=True)), strict=True))
            (folder / f"CLIP_scores_{number:07d}.json").write_bytes(msgspec.json.encode(content))
            rows = []


def _timed(
    options: LabelOptions, name: str, names: int, images: int, command: Sequence[str], output: Path
) -> LabelMeasurement:
    print_line(f"timing {name}, {names} names, {images} images", error=True)
    result = options.work / "result.json"
    timed = [sys.executable, "-m", "plgen_ddp.benchmark.timed_process", str(result), *command]
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    if status := subprocess.run(timed, env=environment, check=False).returncode:
        raise UserError(f"a timed run failed with exit status {status}; its message is above")
    labels = sum(keys.id is not None and int(keys.id) < 0 for keys in CocoFile(output, "--work").annotation_keys())
    output.unlink()  # hundreds of megabytes
    return LabelMeasurement(name, names, images, labels, **json.loads(result.read_text()))
