"""Images to pseudo labels: proposals, CLIP region embeddings, labels.

    torchrun --nproc_per_node=4 launch/score.py --config configs/coco_marvelovd.yaml \\
        data.annotations=coco/annotations/instances_train2017.json data.image_root=coco \\
        detector.weights=weights/base_num1.pth run.output=out/coco
    python launch/score.py ...                     one process: a GPU, or the CPU
    torchrun ... launch/score.py ... --no-label    only the region store
    python launch/score.py ... --label-only        only the labels, from the store (as launch/label.py)

The same command again goes on where it was stopped, also on another number of GPUs. SIGTERM and SIGUSR1 let each rank
finish its batch; a second one ends it at once. Each rank keeps a log in `run.output`/log/rank-N.txt.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.plurals import counted
from plgen_ddp.starting import interruptible_imports

with interruptible_imports():
    from plgen_ddp.command_line import command_line
    from plgen_ddp.config import Config, load_config
    from plgen_ddp.console import end_with, failed_status, one_line_errors, rank_log
    from plgen_ddp.label.job import check_before_scoring
    from plgen_ddp.label.plan import LABELLING_REQUIRES
    from plgen_ddp.options import given
    from plgen_ddp.report.after_labelling import check_report, label_and_report
    from plgen_ddp.run_lock import RunLock
    from plgen_ddp.score.fill_store import fill_store
    from plgen_ddp.score.job import read_dataset, scoring_requires
    from plgen_ddp.world import World


def main(words: Sequence[str] | None = None) -> int:
    arguments = parse(words)
    with one_line_errors(resumes=True):
        if arguments.label_only:
            config = load_config(arguments.config, arguments.overrides, LABELLING_REQUIRES)
            label_and_report(config)
            return 0
        also = () if arguments.no_label else LABELLING_REQUIRES
        with World.from_env() as world:
            config = world.from_main(
                lambda: load_config(
                    arguments.config, arguments.overrides, lambda config: scoring_requires(config) + also
                )
            )
            with rank_log(Path(given(config.run.output), "log")):
                failed = score(world, config, label=not arguments.no_label)
                if world.is_main and not arguments.no_label:
                    label_and_report(config)
    if failed > config.run.max_failures:
        return failed_status(
            f"{counted(failed, 'image')} could not be scored; the reasons are above and in run.output/log"
        )
    return 0


def score(world: World, config: Config, *, label: bool) -> int:
    """Fills the region store, together with the other ranks, and leaves the group.

    Returns:
        On rank 0, how many images could not be scored; 0 on other ranks.
    """
    dataset = world.from_main(lambda: read_dataset(config))
    if label:
        world.from_main(lambda: check_before_scoring(config, dataset.index.image_ids))
        world.from_main(lambda: check_report(config))
    with RunLock(Path(given(config.run.output))) as lock:
        images = len(dataset.index.image_ids)
        world.from_main(lambda: lock.acquire(images, parent=world.under_torchrun))
        return fill_store(world, config, dataset, lock)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line(__doc__)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--no-label", action="store_true", help="stop when the region store is complete")
    only.add_argument("--label-only", action="store_true", help="label from the region store, score nothing")
    return parser.parse_intermixed_args(words)


if __name__ == "__main__":
    end_with(main)
