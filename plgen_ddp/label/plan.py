"""What one labelling needs, read and checked before any work: the JSON, the names, the prompts, the output."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from plgen_ddp.coco import Category, CocoFile, Image
from plgen_ddp.config import Config
from plgen_ddp.errors import UserError
from plgen_ddp.files import check_output
from plgen_ddp.image_files import dataset_digest
from plgen_ddp.label.category_embeddings import categories_to_embed
from plgen_ddp.label.rule import NameTable, name_table
from plgen_ddp.label.score_thresholds import read_score_thresholds
from plgen_ddp.label.vocabulary import Vocabulary, read_templates, read_vocabulary
from plgen_ddp.options import given, require
from plgen_ddp.store import store_of

# Options that have no default and that every labelling needs.
LABELLING_REQUIRES = ("label.vocabulary", "label.templates", "run.output")


@dataclass(frozen=True)
class LabelPlan:
    """One labelling, its inputs read and checked.

    Attributes:
        output: the labelled JSON to write.
        coco: the JSON to label.
        extents: (width, height) in pixels of each of its images, by image id.
        image_ids: the images to label, ascending; fewer than `extents` with `data.limit`.
        digest: of its images, as the store's manifest has it.
        vocabulary, templates: the names and the prompts around them.
        novel_ids: category ids of the novel names, int64, in the vocabulary's order.
        base_ids: category ids whose annotations stay. base_names: their names, in the JSON's order.
        table: the words whose text embeddings the rule looks at.
        thresholds: `label.score_threshold` of each novel name, float64.
        added: categories that the output has and the JSON lacks. left_out: ids of those that the output lacks.
        embedded: categories that get `text_emb` in the output.
    """

    config: Config
    output: Path
    coco: CocoFile
    extents: dict[int, tuple[int, int]]
    image_ids: list[int]
    digest: str
    vocabulary: Vocabulary
    templates: tuple[str, ...]
    novel_ids: np.ndarray
    base_ids: list[int]
    base_names: list[str]
    table: NameTable
    thresholds: np.ndarray
    added: list[Category]
    left_out: set[int]
    embedded: list[Category]

    def category_words(self) -> list[tuple[str, ...]]:
        """The words in the prompts of each category that gets `text_emb`: those of its label."""
        return [self.vocabulary.words_of(category.name) for category in self.embedded]


def plan_labelling(config: Config) -> LabelPlan:
    """Reads what a labelling needs beside the store.

    Raises:
        UserError: a missing option, an unreadable JSON, other images than those scored, a name that the JSON lacks or
            that is given twice.
    """
    coco = _file_to_label(config)
    _output(config, coco)  # before the slower checks
    coco.annotation_keys()  # a mistake in them must show before the work
    vocabulary = read_vocabulary(config).of_json(coco)
    images = coco.images()
    _check_same_images(config, images)
    extents = {image.id: (image.width, image.height) for image in images}
    image_ids = _images_to_label(config, [image.id for image in images])
    return _plan(config, coco, extents, image_ids, dataset_digest(images), vocabulary, read_templates(config))


def with_label_options(plan: LabelPlan, config: Config) -> LabelPlan:
    """The plan of the same images under other options of `label`. The JSON is not read again.

    Args:
        config: as the plan's, but for its section `label`, of which `annotations` is the plan's too.

    Raises:
        UserError: what `plan_labelling` raises of names, prompts and thresholds.
    """
    before, now = plan.config.label, config.label
    assert (config.data, now.annotations) == (plan.config.data, before.annotations), "other images"
    # Read again only where another one is meant: a sweep has many settings, and few vocabularies.
    vocabulary = plan.vocabulary if now.vocabulary == before.vocabulary else read_vocabulary(config).of_json(plan.coco)
    templates = plan.templates if now.templates == before.templates else read_templates(config)
    return _plan(config, plan.coco, plan.extents, plan.image_ids, plan.digest, vocabulary, templates)


def _plan(
    config: Config,
    coco: CocoFile,
    extents: dict[int, tuple[int, int]],
    image_ids: list[int],
    digest: str,
    vocabulary: Vocabulary,
    templates: tuple[str, ...],
) -> LabelPlan:
    categories = coco.categories()
    added = vocabulary.new_categories(categories) if config.label.add_categories else []
    categories += added
    novel_ids, base_ids = vocabulary.category_ids(categories)
    base = [category for category in categories if category.id in base_ids]
    base_names = [category.name for category in base]
    named = base_ids | set(novel_ids)
    left_out = {category.id for category in categories if config.label.drop_categories and category.id not in named}
    to_embed = categories_to_embed(coco, added, config.label.text_embeddings)
    return LabelPlan(
        config=config,
        output=_output(config, coco),
        coco=coco,
        extents=extents,
        image_ids=image_ids,
        digest=digest,
        vocabulary=vocabulary,
        templates=templates,
        novel_ids=np.array(novel_ids, np.int64),
        base_ids=[category.id for category in base],
        base_names=base_names,
        table=name_table(vocabulary, base_names, config.label),
        thresholds=read_score_thresholds(config.label, vocabulary.novel),
        added=added,
        left_out=left_out,
        embedded=[category for category in to_embed if category.id not in left_out],
    )


def _output(config: Config, coco: CocoFile) -> Path:
    """Where the labelled JSON goes.

    Raises:
        UserError: it cannot be written there, or it is an input.
    """
    output = Path(config.label.output or Path(given(config.run.output), "labels.json"))
    check_output(output, "label.output", {"the JSON to label": coco.path, **labelling_inputs(config)})
    return output


def labelling_inputs(config: Config) -> dict[str, object]:
    """What a run reads or keeps, by its description: no output may replace any of it. See `check_output`."""
    return {
        "the region store": store_of(config).folder,
        "the folder of the ranks' logs": Path(given(config.run.output), "log"),
        "data.annotations": config.data.annotations,
        "label.annotations": config.label.annotations,
        "label.vocabulary": config.label.vocabulary,
        "label.templates": config.label.templates,
        "label.score_threshold": config.label.score_threshold,
        "clip.model": config.clip.model,
        "clip.weights": config.clip.weights,
        "clip.tokenizer": config.clip.tokenizer,
        "detector.config": config.detector.config,
        "detector.weights": config.detector.weights,
        "proposals.source": config.proposals.source,
    }


def _file_to_label(config: Config) -> CocoFile:
    """The JSON of `label.annotations`, else of `data.annotations`, else the one that the store was made from."""
    if config.label.annotations is not None:
        return CocoFile(config.label.annotations, "label.annotations")
    if config.data.annotations is None and (recorded := store_of(config).manifest().annotations):
        return CocoFile(recorded, "data.annotations is not set, and the JSON that the store was made from")
    require(config, "data.annotations")
    return CocoFile(given(config.data.annotations), "data.annotations")


def _check_same_images(config: Config, images: Sequence[Image]) -> None:
    """Checks that images of `label.annotations` are those that were scored under the same id.

    Compared where the JSON that was scored is at hand. Names without their folders, which differ between copies of a
    dataset.

    Raises:
        UserError: an image of another name or size.
    """
    if config.label.annotations is None:
        return
    scored = config.data.annotations or store_of(config).manifest().annotations
    if scored is None or not Path(scored).is_file():
        return
    known = {image.id: _name_and_size(image) for image in CocoFile(scored, "data.annotations").images()}
    for image in images:
        before, now = known.get(image.id), _name_and_size(image)
        if before is not None and before != now:
            raise UserError(
                f"label.annotations: image {image.id} is {now[1]} x {now[2]} there, {now[0]!r}, and was scored as "
                f"{before[1]} x {before[2]}, {before[0]!r}: the store was made from other images"
            )


def _name_and_size(image: Image) -> tuple[str, int, int]:
    return PurePosixPath(image.file_name).name, image.width, image.height


def _images_to_label(config: Config, image_ids: list[int]) -> list[int]:
    """The JSON's images in ascending id; with `data.limit`, those of them that stage 1 was limited to."""
    if config.data.limit is None:
        return image_ids
    if config.label.annotations is None:
        return image_ids[: config.data.limit]
    require(config, "data.annotations")
    scored = CocoFile(given(config.data.annotations), "data.annotations").images()[: config.data.limit]
    return sorted(set(image_ids) & {image.id for image in scored})
