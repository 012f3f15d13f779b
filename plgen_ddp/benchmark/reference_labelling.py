"""The reference's stage 2 as a process: from its files of scores and a COCO-format JSON to the labelled JSON.

    python -m plgen_ddp.benchmark.reference_labelling ANNOTATIONS.json SCORES OUTPUT.json WEIGHT THRESHOLD BASE_ID,...

Written plainly, as VL-PLM and MarvelOVD do it: files are read and written with `json`, images are suppressed one by one
with torchvision. SCORES is a folder of `CLIP_scores_*.json`; see `plgen_ddp/label/import_scores.py` for their form.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from plgen_ddp.benchmark.reference_recipe import reference_top_labels


def main(words: list[str]) -> None:
    """Takes the paths, the weight of objectness, the score threshold and the ids of the base categories."""
    annotations, scores, output, weight, threshold, base_ids = words
    data = json.loads(Path(annotations).read_text())
    base = set(map(int, base_ids.split(",")))
    kept = [annotation for annotation in data["annotations"] if annotation["category_id"] in base]
    labels: list[dict[str, Any]] = []
    for path in sorted(Path(scores).glob("CLIP_scores_*.json")):
        file = json.loads(path.read_text())
        for image_id, boxes, objectness, clip_scores, category_ids in zip(
            file["img_ids_list"],
            file["bbox_all_list"],
            file["rpn_score_all_list"],
            file["clip_score_all_list"],
            file["clip_catIDs_all_list"],
            strict=True,
        ):
            if boxes:
                labels += reference_top_labels(
                    image_id,
                    torch.tensor(boxes),
                    torch.tensor(objectness),
                    torch.tensor(clip_scores, dtype=torch.float64)[:, 0],
                    torch.tensor(category_ids)[:, 0],
                    float(weight),
                    float(threshold),
                    first_id=-1 - len(labels),
                )
    data["annotations"] = kept + labels
    with Path(output).open("w") as stream:
        json.dump(data, stream)


if __name__ == "__main__":
    main(sys.argv[1:])
