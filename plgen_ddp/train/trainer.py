"""The training itself: detectron2's loop, hooks and solver, on every rank, from the last checkpoint on."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from plgen_ddp.config import RunConfig
from plgen_ddp.console import print_text
from plgen_ddp.device import prepare_device
from plgen_ddp.errors import UserError
from plgen_ddp.options import given
from plgen_ddp.train.checkpoints import TrainingCheckpointer
from plgen_ddp.train.config import ProposalTrainingConfig
from plgen_ddp.train.data import TrainingData
from plgen_ddp.train.detector import build_detector, build_optimizer, training_cfg
from plgen_ddp.train.images import EndlessSampler, training_batches
from plgen_ddp.train.recall import Recall, measure_recall
from plgen_ddp.world import World

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # as in plgen_ddp.score.mask_rcnn
    from detectron2.engine import AMPTrainer, SimpleTrainer, create_ddp_model, hooks
    from detectron2.solver import build_lr_scheduler
    from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter

# detectron2's AMPTrainer names autocast by its old place.
warnings.filterwarnings("ignore", message=r".*torch\.cuda\.amp\.", category=FutureWarning)


def train(
    config: ProposalTrainingConfig, world: World, data: TrainingData, weights: Path | None
) -> tuple[Path, list[Recall]]:
    """Trains to the last step, from the last checkpoint in `run.output` if there is one, together with the other ranks.

    Args:
        weights: the local file of `detector.weights`; None: random weights.

    Returns:
        The final checkpoint, and on rank 0 its recall: one entry for each of `recall.refine_steps`, none without
        validation data.

    Raises:
        UserError: ranks that cannot share a step's images equally, or initial weights of another detector.
    """
    images_per_rank = world.from_main(lambda: _share(config.train.images_per_step, world.size))
    folder = Path(given(config.run.output))
    device = world.everywhere(
        lambda: prepare_device(RunConfig(device=config.run.device, threads=config.run.threads), world.local_rank)
    )
    with _detectron2_lines(world.rank):
        cfg = training_cfg(config, device, run_lengths=data.has_run_lengths, boxes_alone=data.pseudo_labels > 0)
        torch.manual_seed(config.train.seed)  # the same initial weights on every rank
        model = world.once_a_node(lambda: build_detector(cfg, weights))
        optimizer = build_optimizer(cfg, config.train, model)
        replicas = create_ddp_model(
            model, broadcast_buffers=False, device_ids=[device.index] if device.type == "cuda" else None
        )
        # The loader needs the first step, which the checkpoint knows, which is loaded into the trainer.
        trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(replicas, (), optimizer)
        checkpointer = TrainingCheckpointer(model, str(folder), save_to_disk=world.is_main, trainer=trainer)
        measured: list[Recall] = []

        def measure() -> dict[str, float]:
            measured[:] = measure_recall(model, cfg, config.recall, data.validation, world, device, config.run.workers)
            return {name: value for recall in measured for name, value in recall.scalars().items()}

        trainer.register_hooks(
            [
                hooks.IterationTimer(),
                hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer)),
                hooks.PeriodicCheckpointer(checkpointer, config.run.checkpoint_every, max_to_keep=2)
                if world.is_main
                else None,
                hooks.EvalHook(config.recall.every, measure) if data.validation else None,
                hooks.PeriodicWriter(_writers(folder, config.train.steps)) if world.is_main else None,
            ]
        )
        start = _resume(checkpointer, trainer, world)
        if start >= config.train.steps:
            measure()
            return folder / "model_final.pth", measured
        torch.manual_seed(config.train.seed + world.rank + start)
        order = EndlessSampler(
            len(data.images), config.train.seed, start * config.train.images_per_step, world.rank, world.size
        )
        with training_batches(
            data.images, cfg, order, images_per_rank, config.train.seed, config.run.workers
        ) as batches:
            trainer.reset_data_loader(lambda: batches)
            trainer.train(start, config.train.steps)
    return folder / "model_final.pth", measured


def _share(images: int, ranks: int) -> int:
    """How many of a step's images are one rank's."""
    if images % ranks:
        raise UserError(f"train.images_per_step is {images}; {ranks} ranks cannot share it equally")
    return images // ranks


def _resume(checkpointer: TrainingCheckpointer, trainer: SimpleTrainer, world: World) -> int:
    """Loads the last checkpoint, if there is one. Returns the step to go on with."""
    last = world.from_main(lambda: checkpointer.get_checkpoint_file() if checkpointer.has_checkpoint() else "")
    if not last:
        return 0
    world.once_a_node(lambda: checkpointer.resume(last))
    return trainer.iter + 1


def _writers(folder: Path, steps: int) -> list[EventWriter]:
    """detectron2's default writers; TensorBoard's where it is installed."""
    writers = [CommonMetricPrinter(steps), JSONWriter(str(folder / "metrics.json"))]
    if find_spec("tensorboard"):
        writers.append(TensorboardXWriter(str(folder)))
    return writers


class _Lines(logging.Handler):
    """Passes log records on as lines: rank 0 prints them, every rank's log keeps them."""

    def __init__(self, *, printed: bool) -> None:
        super().__init__()
        self._printed = printed

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info[1], UserError):
            return  # detectron2 logs its traceback; a user's mistake is one line, at the end
        line = self.format(record)
        if self._printed:
            print_text(line)
        else:
            logging.getLogger("plgen_ddp").info("%s", line)


@contextlib.contextmanager
def _detectron2_lines(rank: int) -> Iterator[None]:
    """Passes on what detectron2 logs of the training."""
    handler = _Lines(printed=rank == 0)
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            logger.removeHandler(handler)
