"""Trains stage 1's class-agnostic Mask R-CNN on the base annotations of a COCO-format JSON.

    torchrun --nproc_per_node=8 launch/train_proposals.py --config configs/train_proposals.yaml \\
        data.annotations=coco/annotations/instances_train2017.json data.image_root=coco \\
        data.validation_annotations=coco/annotations/instances_val2017.json run.output=out/detector
    python launch/train_proposals.py ...                     one process: a GPU, or the CPU
    ... --export weights/detector.pth                        also the weights alone, float16, compressed
    ... --config configs/train_proposals_second_round.yaml ... data.pseudo_labels=out/coco/labels.json
                                                             on the pseudo labels of a finished labelling too

Novel annotations are removed before anything sees them; a file of pseudo labels is audited for them first. The same
command again goes on from the last checkpoint, also on another number of GPUs. `run.output` gets model_final.pth, which
detector.weights of launch/score.py takes as it is, metrics.json, and in log/ what each rank logged.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.starting import interruptible_imports

with interruptible_imports():
    from plgen_ddp.command_line import command_line
    from plgen_ddp.console import end_with, one_line_errors, print_line, rank_log
    from plgen_ddp.files import check_output
    from plgen_ddp.options import given, load_structured
    from plgen_ddp.train.checkpoints import open_output
    from plgen_ddp.train.config import TRAINING_REQUIRES, ProposalTrainingConfig
    from plgen_ddp.train.data import read_training_data
    from plgen_ddp.train.detector import find_initial_weights, learns_masks
    from plgen_ddp.train.recall import print_recall
    from plgen_ddp.train.trainer import train
    from plgen_ddp.train.weights import export_weights
    from plgen_ddp.world import World


def main(words: Sequence[str] | None = None) -> int:
    arguments = parse(words)
    with one_line_errors(resumes=True):
        if arguments.export is not None:
            check_output(arguments.export, "--export", {})
        with World.from_env(gradients=True) as world:
            config = world.from_main(
                lambda: load_structured(
                    ProposalTrainingConfig, arguments.config, arguments.overrides, TRAINING_REQUIRES
                )
            )
            with rank_log(Path(given(config.run.output), "log")):
                with_masks = world.from_main(lambda: learns_masks(config))
                data = world.once_a_node(lambda: read_training_data(config, with_masks=with_masks))
                weights = world.once_a_node(lambda: find_initial_weights(config))
                world.from_main(lambda: open_output(config, data, weights))
                if world.is_main:
                    print_line(f"learning {data.summary()}")
                checkpoint, recall = train(config, world, data, weights)
        if world.is_main:
            print_recall(recall)
            if arguments.export:
                export_weights(checkpoint, arguments.export)
            print_line(f"wrote {arguments.export or checkpoint}")
    return 0


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line(__doc__, ProposalTrainingConfig)
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the weights alone, float16, compressed")
    return parser.parse_intermixed_args(words)


if __name__ == "__main__":
    end_with(main)
