"""The demo from end to end: score and label scenes, evaluate the labels, draw them.

    python -m plgen_ddp.demo [--ranks 2] [section.key=value ...]

Each step is a command that a user could type; it is printed before it runs.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import cv2

from plgen_ddp.coco import CocoFile
from plgen_ddp.config import Config, load_config
from plgen_ddp.console import one_line_errors, print_evaluation
from plgen_ddp.evaluation import evaluate
from plgen_ddp.image_files import index_images
from plgen_ddp.options import given
from plgen_ddp.report.pictures import draw_boxes

CONFIG = "demo"
# The scripts of launch/ by the name they are installed under: they start from any folder, without a checkout too.
SCORE, LABEL = "plgen_ddp.launch.score", "plgen_ddp.launch.label"
VLPLM = ["label.objectness_weight=0.5", "label.score_threshold=0.8"]
# Three of the six novel names under other prompts; the base names only take their share of the probability.
OTHER_WORDS = [
    "label.vocabulary={novel: [heart, fish, key], distractors: [circle, square, triangle, star, cross, hexagon, ring]}",
    "label.templates=['a photo of {article} {}.', 'a small {}.']",
]
PICTURES = 6


def main() -> int:
    """Runs the demo's commands, evaluates and draws their labels. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2, help="processes of the scoring")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="options of the config demo")
    options = parser.parse_intermixed_args()
    with one_line_errors():
        config = load_config(CONFIG, options.overrides, ("data.annotations", "data.image_root", "run.output"))
    output = Path(given(config.run.output))
    files = {preset: output / f"labels_{preset}.json" for preset in ("marvelovd", "vlplm", "other_words")}
    score = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={options.ranks}", "-m", SCORE]
    words = ["--config", CONFIG, *options.overrides]

    seconds = {
        "marvelovd": _run([*score, *words, f"label.output={files['marvelovd']}"]),
        "vlplm": _run(["-m", LABEL, *words, *VLPLM, f"label.output={files['vlplm']}"]),
    }
    print("\nEncode once, label many: other names and prompts over the same store.")
    _run(["-m", LABEL, *words, *OTHER_WORDS, f"label.output={files['other_words']}"])

    metrics = {}
    for preset, taken in seconds.items():
        print(f"\n{preset}, against the scenes' novel ground truth:")
        result = evaluate(files[preset], Path(given(config.data.annotations)))
        print_evaluation(result)
        metrics[preset] = {
            "AP": result.AP,
            "AP50": result.AP50,
            "pls_per_image": result.pls_per_image,
            "images": result.images,
            "seconds": round(taken, 2),
        }
    (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    pictures = _draw(config, files["vlplm"], output / "pictures")
    print(f"\npseudo labels: {files['marvelovd']}, {files['vlplm']}\nmetrics: {output / 'metrics.json'}")
    print(f"pictures: {pictures} (red: VL-PLM's labels, green: ground truth of novel names)")
    return 0


def _run(words: list[str]) -> float:
    """Runs a Python command, showing it; its seconds. A failure ends the demo with the command's status."""
    print("\n$ python " + " ".join(repr(word) if set(word) & set(" {}'") else word for word in words), flush=True)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return time.perf_counter() - start


def _draw(config: Config, labels: Path, folder: Path) -> Path:
    """Draws the first images of the labelled file that have pseudo labels, JPEG files named by image id."""
    made, real = json.loads(labels.read_bytes()), json.loads(Path(given(config.data.annotations)).read_bytes())
    names = {category["id"]: category["name"] for category in made["categories"]}
    novel = set(made["info"]["plgen_ddp"]["label"]["novel"])
    images = CocoFile(given(config.data.annotations), "data.annotations").images()
    index = index_images(images, given(config.data.image_root), Path(given(config.data.annotations)))
    pseudo = [row for row in made["annotations"] if "confidence" in row]
    chosen = [image_id for image_id in index.image_ids.tolist() if any(row["image_id"] == image_id for row in pseudo)]
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in chosen[:PICTURES]:
        pixels = cv2.imread(str(index.path(index.image_ids.tolist().index(image_id))))
        assert pixels is not None, f"image {image_id} has labels, so it was decoded before"
        picture = draw_boxes(
            pixels,
            [
                (names[row["category_id"]], row["confidence"], row["bbox"])
                for row in pseudo
                if row["image_id"] == image_id
            ],
            [
                (names[row["category_id"]], row["bbox"])
                for row in real["annotations"]
                if row["image_id"] == image_id and names[row["category_id"]] in novel
            ],
        )
        cv2.imwrite(str(folder / f"{image_id}.jpg"), picture)
    return folder


if __name__ == "__main__":
    sys.exit(main())
