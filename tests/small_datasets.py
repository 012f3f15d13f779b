"""Datasets for tests: the demo's drawn scenes, which every checkout has, and real photos where they lie beside it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import REPOSITORY

SCENES = REPOSITORY / "plgen_ddp" / "demo" / "data"
SCENES_JSON = SCENES / "annotations" / "instances_demo.json"
SCENES_VOCABULARY = REPOSITORY / "configs" / "vocabularies" / "demo.yaml"

COCO_MINI = REPOSITORY.parent / "shared" / "data" / "coco_mini"


def scenes_words() -> list[str]:
    """The options that make a job score and label the demo's 48 scenes, from any folder."""
    return [
        f"data.annotations={SCENES_JSON}",
        f"data.image_root={SCENES}",
        f"label.vocabulary={SCENES_VOCABULARY}",
    ]


def take_images(root: Path, split: str, count: int) -> dict[str, Any]:
    """The COCO-format content of the first `count` images of a split of a dataset, with their annotations."""
    data = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    data["images"] = sorted(data["images"], key=lambda image: image["id"])[:count]
    ids = {image["id"] for image in data["images"]}
    data["annotations"] = [annotation for annotation in data["annotations"] if annotation["image_id"] in ids]
    return data


def take_scenes(count: int) -> dict[str, Any]:
    """The COCO-format content of the first `count` scenes, with their annotations."""
    return take_images(SCENES, "demo", count)


@dataclass(frozen=True)
class SmallDataset:
    """Copied scenes in a folder of their own: files may be damaged, the JSON changed."""

    root: Path

    @property
    def annotations(self) -> Path:
        return self.root / "annotations" / "instances_demo.json"

    @classmethod
    def copy(cls, folder: Path, count: int) -> "SmallDataset":
        """The first `count` scenes, copied into a new folder."""
        dataset, data = cls(folder), take_scenes(count)
        dataset.annotations.parent.mkdir(parents=True)
        (folder / "demo").mkdir()
        for image in data["images"]:
            shutil.copy(SCENES / "demo" / image["file_name"], folder / "demo")
        dataset.write(data)
        return dataset

    def read(self) -> dict[str, Any]:
        return json.loads(self.annotations.read_text())

    def write(self, data: dict[str, Any]) -> None:
        self.annotations.write_text(json.dumps(data))

    def files(self) -> list[Path]:
        """The image files, in the order of the JSON."""
        return [self.root / "demo" / image["file_name"] for image in self.read()["images"]]

    def words(self) -> list[str]:
        """The options that make a job score and label this dataset."""
        return [
            f"data.annotations={self.annotations}",
            f"data.image_root={self.root}",
            f"label.vocabulary={SCENES_VOCABULARY}",
        ]
