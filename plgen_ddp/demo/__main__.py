"""The demo from end to end: score scenes, label them by every packaged rule, compare the rules, draw and report.

    python -m plgen_ddp.demo [--ranks 2] [section.key=value ...]

Each step is a command that a user could type; it is printed before it runs.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from plgen_ddp.config import load_config
from plgen_ddp.console import one_line_errors, print_line, print_text
from plgen_ddp.options import given

CONFIG, BEST = "demo", "demo_best"
# The scripts of launch/ by the name they are installed under: they start from any folder, without a checkout too.
SCORE, LABEL, COMPARE, REPORT = (f"plgen_ddp.launch.{name}" for name in ("score", "label", "compare", "report"))
# Three of the six novel names under other prompts; the base names only take their share of the probability.
OTHER_WORDS = [
    "label.vocabulary={novel: [heart, fish, key], distractors: [circle, square, triangle, star, cross, hexagon, ring]}",
    "label.templates=['a photo of {article} {}.', 'a small {}.']",
]
WORLD = """\
The world is drawn: scenes of 18 names, and a CLIP as blind to an object's ends as the real one. How the rules
compare on COCO awaits real weights. launch/compare.py makes this table from any store, with --stand-ins also where
nobody annotated the novel names.
"""


def main() -> int:
    """Runs the demo's commands. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2, help="processes of the scoring")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="options of the config demo")
    options = parser.parse_intermixed_args()
    with one_line_errors():
        config = load_config(CONFIG, options.overrides, ("data.annotations", "data.image_root", "run.output"))
    output = Path(given(config.run.output))
    labels, others = output / "labels.json", output / "labels_other_words.json"
    figures, picture = output / "rules.json", output / "rules.png"
    report = output / "report.html"

    ranks = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={options.ranks}", "-m"]
    _run([*ranks, SCORE, "--config", BEST, *options.overrides, f"label.output={labels}"])
    print_text("")
    print_line("Encode once, label many: other names and prompts over the same store.")
    _run(["-m", LABEL, "--config", CONFIG, *options.overrides, *OTHER_WORDS, f"label.output={others}"])
    print_text("")
    print_line("And other rules: those of the literature and the best one, against the scenes' novel objects.")
    written = ["--json", str(figures), "--picture", str(picture)]
    _run(["-m", COMPARE, "--config", CONFIG, *written, *options.overrides])
    print_text("")
    print_line("And a page to look at: images, counts and plots that follow a threshold and a name.")
    scenes, root = given(config.data.annotations), given(config.data.image_root)
    page = ["--labels", str(labels), "--ground-truth", scenes, "--images", root, "--run", str(output)]
    _run(["-m", REPORT, *page, "--output", str(report)])
    print_text(f"\n{WORLD}")
    print_line("made: pseudo labels of the scenes, by all rules and by other words, a table of the rules, and a report")
    print_line(f"where: {labels}, {others.name} and comparison/ beside it; {figures}, {picture}, {report}")
    mine = f"run.output={output} label.vocabulary=heart,fish label.output={output / 'mine.json'}"
    print_line(f"next: open {report} in a browser; python -m {LABEL} --config {BEST} {mine}")
    return 0


def _run(words: list[str]) -> None:
    """Runs a Python command, showing it. A failure ends the demo with the command's status."""
    print_text("")
    print_line("$ python " + " ".join(repr(word) if set(word) & set(" {}'") else word for word in words))
    # torchrun prints a banner where this is not set, and then sets it to 1 itself.
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    done = subprocess.run([sys.executable, *words], env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
