"""What a person reads at the end of a run."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from plgen_ddp.errors import tell
from plgen_ddp.evaluation import Evaluation
from plgen_ddp.labeling import LabelSummary

# From this share of the ranks' time on, waiting for images is worth a line; a short run waits for its first one.
_MUCH_WAITING = 0.1
_SHORT_RUN = 60.0


class RankSummary(Protocol):
    """The part of `plgen_ddp.scoring.Summary` that is printed here; importing it would import the models."""

    images: int
    boxes: int
    seconds: float
    waited: float
    peak_memory: int
    peak_gpu_memory: int


def print_scoring(
    summaries: Sequence[RankSummary], failures: Sequence[tuple[int, str, str]], max_failures: int
) -> None:
    """What all ranks did, on stdout, and the images that failed, counted by reason, on stderr.

    Args:
        failures: (image id, stage, reason), in ascending id; those of earlier runs too.
    """
    images, boxes = sum(summary.images for summary in summaries), sum(summary.boxes for summary in summaries)
    seconds = max(summary.seconds for summary in summaries)
    memory = f"{max(summary.peak_memory for summary in summaries) / 1e9:.2f} GB"
    if gpu := max(summary.peak_gpu_memory for summary in summaries):
        memory += f", GPU {gpu / 1e9:.2f} GB"
    if images:
        tell(
            f"scored {images} images, {boxes} boxes in {seconds:.1f} s ({images / seconds:.2f} images/s) on "
            f"{len(summaries)} rank{'s' if len(summaries) > 1 else ''}; peak memory of a rank {memory}"
        )
    else:
        tell("nothing to score: the store is complete")
    waited = sum(summary.waited for summary in summaries) / max(sum(summary.seconds for summary in summaries), 1e-9)
    if waited > _MUCH_WAITING and seconds > _SHORT_RUN:
        tell(f"{waited:.0%} of the time went by waiting for images; more run.workers may help", error=True)
    if failures:
        tell(f"{len(failures)} images could not be scored (run.max_failures={max_failures}):", error=True)
        for (stage, reason), count in Counter((stage, reason) for _, stage, reason in failures).most_common(10):
            first = next(image_id for image_id, *why in failures if why == [stage, reason])
            tell(f"  {count} x {stage}: {reason} (first: image {first})", error=True)
        tell("  run.retry_failures=true scores them again once they are mended", error=True)


def print_labels(summary: LabelSummary) -> None:
    tell(
        f"wrote {summary.path}: {summary.pseudo_labels} pseudo labels on {summary.images} images "
        f"({summary.pseudo_labels_per_image:.2f} an image), {summary.base_annotations} base annotations kept"
    )
    if summary.failed_images:
        tell(f"{summary.failed_images} images have no pseudo labels because they could not be scored", error=True)


def print_evaluation(result: Evaluation) -> None:
    """COCO's metrics as one line, then AP50 of each name."""
    tell(
        f"AP {result.AP:.3f}  AP50 {result.AP50:.3f}  AP75 {result.AP75:.3f}  small/medium/large "
        f"{result.AP_small:.3f}/{result.AP_medium:.3f}/{result.AP_large:.3f}  AR@100 {result.AR100:.3f}  "
        f"({result.pseudo_labels} pseudo labels on {result.images} images, {result.pls_per_image:.2f} an image)"
    )
    by_name = {name: "no objects" if value < 0 else f"{value:.3f}" for name, value in result.AP50_by_name.items()}
    tell("AP50 by name: " + ", ".join(f"{name} {value}" for name, value in sorted(by_name.items())))
