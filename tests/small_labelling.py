"""A JSON, a store of its images and cached names, made without any model: a labelling that takes a second."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from plgen_ddp.coco import CocoFile
from plgen_ddp.image_files import dataset_digest
from plgen_ddp.label.text_embeddings import TextEmbeddings
from plgen_ddp.records import EVIDENCE, Regions, Similarity
from plgen_ddp.store import Manifest, RegionStore

NAMES, DIM, OLD = ("cow", "bus"), 8, b"the old output"
TEMPLATE = "a {}."


@dataclass(frozen=True)
class Labelling:
    """A JSON, a store of its images without any model, and an output that is there already."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Labelling":
        generator = np.random.default_rng(0)
        made = cls(folder)
        images = [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 80} for i in (1, 2, 3)]
        categories = [{"id": i, "name": name} for i, name in enumerate(("person", *NAMES), 1)]
        made.annotations.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
        digest = dataset_digest(CocoFile(made.annotations, "").images())
        identity = {"dataset": {"digest": digest, "images": 3}, "clip": {"weights": "none"}}
        made.store.open_for_scoring(Manifest(DIM, Similarity("softmax", 0.01), identity, {}, str(made.annotations)))
        made.store.write_part([_image(generator, i) for i in (1, 2, 3)])
        texts = TextEmbeddings(made.store.folder / "vocabulary", [TEMPLATE], DIM)
        texts.embed(
            [(name,) for name in ("person", *NAMES)], lambda: lambda prompts: generator.random((len(prompts), DIM))
        )
        made.output.write_bytes(OLD)
        return made

    @property
    def annotations(self) -> Path:
        return self.folder / "instances.json"

    @property
    def output(self) -> Path:
        return self.folder / "labels.json"

    @property
    def store(self) -> RegionStore:
        return RegionStore(self.folder / "store")

    def words(self) -> list[str]:
        return [
            *("--config", "coco_vlplm", f"run.output={self.folder}", f"label.output={self.output}"),
            *(f"label.vocabulary={','.join(NAMES)}", f"label.templates=['{TEMPLATE}']"),
        ]

    def change_json(self, change: Callable[[dict[str, Any]], Any], name: str = "instances.json") -> None:
        data = json.loads(self.annotations.read_text())
        change(data)
        (self.folder / name).write_text(json.dumps(data))

    def change_part(self, column: str, value: Any) -> None:
        """Replaces the first number of a column of the part."""
        (path,) = self.store.part_paths()
        table = pq.read_table(path)
        field = table.schema.field(column)
        rows = table.column(column).to_pylist()
        if column == "embeddings":
            rows[1] = np.float16(value).tobytes() + rows[1][2:] if value is not None else rows[1][2:]
        else:
            rows[1][0] = value
        place = table.column_names.index(column)
        changed = table.set_column(place, field, pa.array(rows, field.type))
        pq.write_table(changed.replace_schema_metadata(None), path)  # as a writer of such numbers would


def _image(generator: np.random.Generator, image_id: int) -> Regions:
    corners = generator.uniform(0, 40, (4, 2))
    return Regions(
        image_id,
        np.concatenate([corners, corners + 20], axis=1).astype(np.float32),
        np.linspace(1, 0.5, 4, dtype=np.float32),
        generator.standard_normal((4, DIM)).astype(np.float16),
        **{name: generator.random(4, np.float32) for name in EVIDENCE},
    )
