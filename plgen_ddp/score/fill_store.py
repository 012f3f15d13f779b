"""Stage 1 on all ranks together: they load the models, share the units of work, and fill one store."""

from plgen_ddp.config import Config
from plgen_ddp.device import prepare_device
from plgen_ddp.progress import Progress
from plgen_ddp.run_lock import RunLock
from plgen_ddp.score.dealing import deal_units
from plgen_ddp.score.job import (
    ScoringData,
    check_any_box,
    check_coverage,
    fetch,
    load_models,
    plan_work,
    score_units,
)
from plgen_ddp.stopping import finishing_batches
from plgen_ddp.summaries import print_scoring
from plgen_ddp.world import World


def fill_store(world: World, config: Config, dataset: ScoringData, lock: RunLock) -> int:
    """Scores the images that the store lacks, leaves the group, and prints on rank 0 what all ranks did.

    Every rank calls it.

    Args:
        lock: of the run's folder; rank 0 has acquired it.

    Returns:
        On rank 0, how many images could not be scored, those of earlier runs too; 0 on other ranks.

    Raises:
        UserError: what the steps of `score/job.py` raise.
        StoppedError: between two batches; the same command goes on from what is stored.
    """
    weights = world.once_a_node(lambda: fetch(config))
    device = world.everywhere(lambda: prepare_device(config.run, world.local_rank))
    models = world.everywhere(lambda: load_models(config, weights, device))

    plan = world.from_main(lambda: plan_work(config, dataset, models))
    own = deal_units(plan.units, world.rank, world.size, lambda share: world.count(1, f"units of {share}") - 1)

    def advance(images: int) -> None:
        lock.check()
        progress.advance(images)

    with Progress(world.count, sum(map(len, plan.units)), shown=world.is_main) as progress:
        with finishing_batches():
            summary = score_units(config, dataset.index, own, models, advance)
        summaries = world.gather(summary)
    world.close()

    if not world.is_main:
        return 0
    failures = check_coverage(config, dataset)
    if not failures:
        check_any_box(summaries)
    print_scoring(summaries, failures, config.run.max_failures, plan.stored)
    return len(failures)
