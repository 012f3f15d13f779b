"""The region store as a notebook sees it: images, regions, search by text, labels. See docs/store.md."""

import functools
import json
import operator
import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from plgen_ddp.coco import CocoFile
from plgen_ddp.config import Config, LabelConfig, load_config
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError, suggestion
from plgen_ddp.image_files import dataset_digest
from plgen_ddp.label.embed_names import embed_words
from plgen_ddp.label.job import label_plans
from plgen_ddp.label.plan import plan_labelling
from plgen_ddp.notebook.search import nearest_boxes
from plgen_ddp.notebook.tables import (
    ImageList,
    ascending,
    found_table,
    image_table,
    label_table,
    region_table,
    to_frame,
)
from plgen_ddp.plurals import counted
from plgen_ddp.processor import available_cores, without_garbage_collection
from plgen_ddp.records import Regions
from plgen_ddp.store import Manifest, RegionStore, store_of

if TYPE_CHECKING:
    from pandas import DataFrame

# The text of a search is a whole prompt.
_WHOLE_PROMPT = ("{}",)


class OpenedStore:
    """The region store of a run, to look at. `plgen_ddp.open_store` makes it.

    It shows the images that are in the store when it is first asked. Nothing is changed but for the text embeddings
    that the store keeps.

    Attributes:
        config: the options that `search` and `label` start from.
        manifest: what made the store.
    """

    config: Config
    manifest: Manifest

    def __init__(self, output: str | Path, config: str | Path | None = None, words: Sequence[str] = ()) -> None:
        """The arguments are those of `plgen_ddp.open_store`."""
        if not isinstance(output, str | os.PathLike):
            raise UserError(f"open_store: output is {output!r}; expected the folder of a run, its run.output")
        path = Path(output)
        if path.name == "store" and (path / "manifest.json").is_file():  # the store itself, and not its run
            path = path.parent
        self._output, self._config = path, config
        self.manifest = RegionStore(path / "store").manifest()
        recorded = () if config is not None else _words("clip", self.manifest.encoder or {})
        self._words: tuple[str, ...] = (*recorded, *words, *_words("run", {"output": str(path)}))
        self.config = load_config(config, self._words)
        self._store = store_of(self.config)

    def __len__(self) -> int:
        """How many images the store has, failed ones too."""
        return len(self._part_of)

    def __repr__(self) -> str:
        return f"<region store {str(self._output)!r}: {counted(len(self), 'image')}>"

    def images(self) -> "DataFrame":
        """A row an image: image_id, file_name, width, height, boxes (how many), failure (why it has none, or null).

        Raises:
            UserError: a damaged part, or pandas is not installed.
        """

        def count(path: Path) -> list[tuple[int, int]]:
            return [(image.image_id, len(image.objectness)) for image in self._store.read_part(path, embeddings=False)]

        counts = {image_id: boxes for part in self._of_parts(count, self._paths()) for image_id, boxes in part}
        image_ids = np.array(sorted(self._part_of), np.int64)
        boxes = np.array([counts[image_id] for image_id in image_ids.tolist()], np.int64)
        failures = {image_id: f"{stage}: {reason}" for image_id, stage, reason in self._store.failures()}
        return to_frame(image_table(image_ids, boxes, failures, self._known))

    def regions(self, image_id: int) -> Regions:
        """The boxes of one image as arrays, embeddings included; see `plgen_ddp.records.Regions`.

        Raises:
            UserError: no such image in the store, or a damaged part.
        """
        (wanted,) = self._ids([image_id])
        return next(image for image in self._store.read_part(self._part_of[wanted]) if image.image_id == wanted)

    def to_arrow(self, image_ids: Iterable[int] | int | None = None) -> pa.Table:
        """A row a box, by rising image id: image_id, file_name, box (its place in the image), x, y, width, height in
        original pixels, objectness, and the evidence foreground, last_move, agreement, scale_cosine, null where the
        boxes' source has none. Imported scores have top_name and top_score in its place.

        polars and duckdb read the table as it is: `polars.from_arrow(table)`.

        Args:
            image_ids: only these images, or this one; None: all. A train2017 takes about a gigabyte.

        Raises:
            UserError: an image that is not in the store, or a damaged part.
        """
        wanted = None if image_ids is None else set(self._ids(image_ids))
        names = None if self.manifest.vocabulary is None else self.manifest.vocabulary.names

        def table(path: Path) -> pa.Table:
            images = self._store.read_part(path, embeddings=False)
            chosen = [image for image in images if wanted is None or image.image_id in wanted]
            return region_table(chosen, self._known, names)

        _ = self._known  # before the threads
        nothing = region_table([], self._known, names)
        return ascending(pa.concat_tables([nothing, *self._of_parts(table, self._paths(wanted))]))

    def to_pandas(self, image_ids: Iterable[int] | int | None = None) -> "DataFrame":
        """The table of `to_arrow` as a pandas frame; file names are a categorical column."""
        return to_frame(self.to_arrow(image_ids))

    def search(self, text: str, k: int = 20, *, nms_iou: float = 0.3) -> "DataFrame":
        """The `k` boxes that look most like a text, by falling cosine: distinct ones, not five copies of one.

        Columns: image_id, file_name, box, x, y, width, height, cosine, objectness. The text is a whole prompt, as
        "a red umbrella", and goes through the encoder of the labels. The store keeps its embedding.

        Args:
            nms_iou: IoU (0 to 1) above which the farther of two boxes of an image is a copy.

        Raises:
            UserError: an empty text or one too long for the encoder, an encoder that is not the store's, imported
                scores, a damaged part.
        """
        if self.manifest.vocabulary is not None:
            raise UserError(f"search: {self._output} holds imported scores, which have no embeddings to compare")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"search: the text is {text!r}; expected a prompt such as 'a red umbrella'")
        if not isinstance(k, int | np.integer) or k < 1:
            raise UserError(f"search: k is {k!r}; expected a whole number from 1")
        if not 0 <= nms_iou <= 1:
            raise UserError(f"search: nms_iou is {nms_iou!r}; expected a number from 0 to 1")
        embedding = embed_words(self.config, _WHOLE_PROMPT, [(text,)], self._store)[0]
        found = nearest_boxes(self._store, self._paths(), embedding, int(k), nms_iou)
        return to_frame(found_table(found, self._known))

    def label(self, *words: str, **options: Any) -> "DataFrame":
        """Labels the store as launch/label.py does, and returns the labels in the place of a file.

        Columns: image_id, file_name, category_id, name, x, y, width, height, score, clip_score, rpn_score, box_score.

            store.label(vocabulary=["umbrella", "cow"], score_threshold=0.7)

        Args:
            words: `section.key=value`, as on the command line.
            options: of section `label` by name; docs/options.md has them. They win over the words.

        Raises:
            UserError: an unknown option, or what launch/label.py refuses.
        """
        config = load_config(self._config, [*self._words, *words, *_label_words(options), *self._writes_nothing()])
        for name in ("vocabulary", "templates"):
            if getattr(config.label, name) is None:
                raise UserError(f"label: {name} is not set; give label({name}=...), or open_store a config that has it")
        plan = plan_labelling(config)
        with without_garbage_collection():
            (done,) = label_plans([plan])
        names = {category.id: category.name for category in (*plan.coco.categories(), *plan.added)}
        return to_frame(label_table(done.labels, ImageList.of(plan.coco.images()), names))

    # What the methods share.

    @functools.cached_property
    def _part_of(self) -> dict[int, Path]:
        return self._store.part_of_images()

    @functools.cached_property
    def _known(self) -> ImageList:
        """What the JSON that was scored says about its images; nothing, with a note, where it is not at hand."""
        digest = self.manifest.identity["dataset"]["digest"]
        if (path := self.config.data.annotations) is not None:
            images = CocoFile(path, "data.annotations").images()
            if dataset_digest(images) != digest:
                raise UserError(f"data.annotations: {path} has other images than the store {self._store.folder}")
            return ImageList.of(images)
        recorded = self.manifest.annotations
        fix = "'data.annotations=FILE' behind open_store's config adds them"
        if recorded is None or not Path(recorded).is_file():
            print_line(f"note: no file names: the JSON that was scored is not at {recorded}; {fix}", error=True)
            return ImageList.of([])
        images = CocoFile(recorded, "the JSON that was scored").images()
        if dataset_digest(images) != digest:
            print_line(f"note: no file names: {recorded} has changed since it was scored; {fix}", error=True)
            return ImageList.of([])
        return ImageList.of(images)

    def _paths(self, image_ids: set[int] | None = None) -> list[Path]:
        """The parts that hold these images, or all."""
        of_images = self._part_of if image_ids is None else {one: self._part_of[one] for one in image_ids}
        return sorted(set(of_images.values()))

    def _of_parts(self, of_part: Any, paths: Sequence[Path]) -> list[Any]:
        """What a function returns for each part, in their order; called side by side."""
        with ThreadPoolExecutor(available_cores()) as pool:
            return list(pool.map(of_part, paths))

    def _ids(self, image_ids: Iterable[int] | int) -> list[int]:
        """Image ids, several or one, as Python's whole numbers.

        Raises:
            UserError: one that the store lacks, or none at all.
        """
        if isinstance(image_ids, str) or not np.iterable(image_ids):
            image_ids = [image_ids]
        found = []
        for image_id in image_ids:
            try:
                found.append(operator.index(image_id))
            except TypeError:
                raise UserError(
                    f"image {image_id!r}: expected an image id, a whole number; images() has them"
                ) from None
            if found[-1] not in self._part_of:
                raise UserError(
                    f"image {image_id} is not in {self._output}, whose {len(self)} images have ids from "
                    f"{min(self._part_of, default=None)} to {max(self._part_of, default=None)}; images() lists them"
                )
        return found

    def _writes_nothing(self) -> list[str]:
        """Options of a labelling whose result stays in memory: no embeddings for a file's categories, and an output
        that may lie anywhere, so that a store that is only to be read can be labelled."""
        unused = Path(tempfile.gettempdir(), f"plgen-labels-{os.getpid()}.json")
        return _words("label", {"text_embeddings": "none", "output": str(unused)})


def _label_words(options: dict[str, Any]) -> list[str]:
    """Options of section `label` as words of the command line.

    Raises:
        UserError: one that is none, or that decides only what a file holds.
    """
    known = {field.name for field in fields(LabelConfig)} - {"output", "text_embeddings", "drop_categories"}
    for name in options:
        if name not in known:
            hint = suggestion(name, known) or "; docs/options.md has those of section label"
            why = "it returns labels and writes no file" if name == "output" else f"no option {name!r}{hint}"
            raise UserError(f"label: {why}")
    return _words("label", options)


def _words(section: str, values: Any) -> list[str]:
    """Options of a section as words of the command line: their values as JSON, which is YAML."""
    try:
        return [
            f"{section}.{name}={json.dumps(value, ensure_ascii=False, default=_plain)}"
            for name, value in values.items()
        ]
    except (TypeError, ValueError):
        raise UserError(f"{section}: expected numbers, texts, lists or mappings; got {values!r}") from None


def _plain(value: Any) -> Any:
    """What JSON has for a path, a NumPy value, or a set of names."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else list(value)
