"""What a command says at its end: of a scoring, an import, a labelling, an audit and an evaluation."""

import statistics
from collections import Counter
from collections.abc import Sequence

from plgen_ddp.console import print_line
from plgen_ddp.figures import Evaluation, PublishedFigures, StoreRecall
from plgen_ddp.records import Audit, ImportSummary, LabelSummary, RankSummary
from plgen_ddp.screen_text import MESSAGE, shortened, visible_name

# From this share of the ranks' time on, waiting for images is worth a line. A short run waits for its first image.
_MUCH_WAITING = 0.1
_SHORT_RUN = 60.0
# A rank below this share of the median rank's images a second is called slow.
_SLOW = 0.8


def print_scoring(
    summaries: Sequence[RankSummary], failures: Sequence[tuple[int, str, str]], max_failures: int, stored: int = 0
) -> None:
    """What all ranks did, on stdout, and the images that failed, counted by reason, on stderr.

    Args:
        failures: (image id, stage, reason), in ascending id; those of earlier runs too.
        stored: images that an earlier run had scored.
    """
    images, boxes = sum(summary.images for summary in summaries), sum(summary.boxes for summary in summaries)
    seconds = max(summary.seconds for summary in summaries)
    memory = f"{max(summary.peak_memory for summary in summaries) / 1e9:.2f} GB"
    if gpu := max(summary.peak_gpu_memory for summary in summaries):
        memory += f", GPU {gpu / 1e9:.2f} GB"
    if images:
        print_line(
            f"scored {images} images, {boxes} boxes in {seconds:.1f} s ({images / seconds:.2f} images/s) on "
            f"{len(summaries)} rank{'s' if len(summaries) > 1 else ''}; peak memory of a rank {memory}"
        )
    else:
        print_line(f"nothing to score: all {stored} images are in the store")
    _print_ranks(summaries)
    waited = sum(summary.waited for summary in summaries) / max(sum(summary.seconds for summary in summaries), 1e-9)
    if waited > _MUCH_WAITING and seconds > _SHORT_RUN:
        print_line(f"{waited:.0%} of the time went by waiting for images; more run.workers may help", error=True)
    if failures:
        print_line(f"{len(failures)} images could not be scored (run.max_failures={max_failures}):", error=True)
        for (stage, reason), count in Counter((stage, reason) for _, stage, reason in failures).most_common(10):
            first = next(image_id for image_id, *why in failures if why == [stage, reason])
            print_line(f"  {count} x {stage}: {shortened(reason, MESSAGE)} (first: image {first})", error=True)
        print_line("  run.retry_failures=true scores them again once they are mended", error=True)


def _print_ranks(summaries: Sequence[RankSummary]) -> None:
    """A line for each of several ranks; on stderr, in a run that is long enough to judge, those that were slow."""
    if len(summaries) == 1 or not any(summary.images for summary in summaries):
        return
    rates = [summary.images / max(summary.seconds, 1e-9) for summary in summaries]
    for rank, (summary, rate) in enumerate(zip(summaries, rates, strict=True)):
        times = f"{summary.images} images in {summary.seconds:.1f} s ({rate:.2f} images/s)"
        print_line(f"  rank {rank} on {summary.host}: {times}, waited {summary.waited:.1f} s for images")
    usual = statistics.median(rate for summary, rate in zip(summaries, rates, strict=True) if summary.images)
    for rank, (summary, rate) in enumerate(zip(summaries, rates, strict=True)):
        if summary.seconds > _SHORT_RUN and rate < _SLOW * usual:
            print_line(
                f"slow: rank {rank} on {summary.host}, {rate / usual:.0%} of the median rank's speed", error=True
            )


def print_import(summary: ImportSummary) -> None:
    """What an import stored, on stdout; images that are twice in the files, unknown or missing, on stderr."""
    print_line(
        f"wrote {summary.store}: {summary.images} images, {summary.boxes} boxes from {summary.files} "
        f"file{'s' if summary.files > 1 else ''}"
    )
    for image_ids, what in (
        (summary.twice, "images are in the files more than once; the first copy, by file name, is stored"),
        (summary.unknown, "images of the files are not in data.annotations; they are left out"),
        (summary.missing, "images of data.annotations are in no file; label.allow_partial=true labels the others"),
    ):
        if image_ids:
            print_line(f"note: {len(image_ids)} {what} (first: image {image_ids[0]})", error=True)


def print_labels(summary: LabelSummary) -> None:
    """What a labelling wrote, on stdout; images without labels because they failed, on stderr."""
    print_line(
        f"wrote {summary.path}: {summary.pseudo_labels} pseudo labels on {summary.images} images "
        f"({summary.pseudo_labels / summary.images:.2f} an image), {summary.base_annotations} base annotations kept"
    )
    if summary.failed_images:
        print_line(f"{summary.failed_images} images have no pseudo labels because they could not be scored", error=True)


def print_audit(result: Audit) -> None:
    """Each leak as a line on stderr; then, on stdout, what was looked at."""
    for leak in result.leaks:
        print_line(f"leak: {leak}", error=True)
    chance = f"; {result.unjudged} labels equal a novel annotation by chance" if result.unjudged else ""
    print_line(
        f"audited {result.pseudo_labels} pseudo labels and {result.base_annotations} base annotations of "
        f"{result.images} images: {'it leaks' if result.leaks else 'no leak'}{chance}"
    )


def print_evaluation(result: Evaluation) -> None:
    """COCO's metrics as one line, published ones below it, AP50 of each name; then what the labels are worth as a
    training takes them, and what the store's boxes find."""
    print_line(_metrics(result))
    if result.published is not None:
        print_line(f"{_metrics(result.published)}: {result.published.title}, {result.published.protocol}")
    by_name = {name: "no objects" if value < 0 else f"{value:.3f}" for name, value in result.AP50_by_name.items()}
    shown = (f"{visible_name(name)} {value}" for name, value in sorted(by_name.items()))
    print_line("AP50 by name: " + ", ".join(shown))
    quality = result.quality
    at = "own threshold" if result.score_threshold is None else f"threshold {result.score_threshold:g}"
    print_line(
        f"precision {quality.precision:.3f}  recall {quality.recall:.3f}  F1 {quality.f1:.3f}  "
        f"(all labels at their {at}, IoU 0.5, {quality.objects} objects)"
    )
    on_base = f"a base object {quality.base_object:.1%}" if result.base_objects else "no base annotations to compare"
    print_line(
        f"wrong labels: no object {quality.background:.1%}, {on_base}, a part {quality.part:.1%}, "
        f"a wrong name {quality.wrong_name:.1%}, a duplicate {quality.duplicate:.1%}"
    )
    if result.store is not None:
        _print_store_recall(result.store)


def _metrics(result: Evaluation | PublishedFigures) -> str:
    return (
        f"AP {result.AP:.3f}  AP50 {result.AP50:.3f}  AP75 {result.AP75:.3f}  small/medium/large "
        f"{result.AP_small:.3f}/{result.AP_medium:.3f}/{result.AP_large:.3f}  AR@100 {result.AR100:.3f}  "
        f"({result.pseudo_labels} pseudo labels on {result.images} images, {result.pls_per_image:.2f} an image)"
    )


def _print_store_recall(measured: StoreRecall) -> None:
    """A line for each number of boxes, a column for each group and IoU."""
    groups = {row.group: row.objects for row in measured.rows}
    ious = dict.fromkeys(row.iou for row in measured.rows)
    shares = {(row.limit, row.group, row.iou): f"{row.recall:.3f}" if row.objects else "-" for row in measured.rows}
    counts = ", ".join(f"{objects} {group} objects" for group, objects in groups.items())
    print_line(f"recall of the store's boxes, whatever their names ({counts})")
    print_line("  boxes  " + "  ".join(f"{f'{group} IoU {iou:g}':>14}" for group in groups for iou in ious))
    for limit in dict.fromkeys(row.limit for row in measured.rows):
        cells = (f"{shares[limit, group, iou]:>14}" for group in groups for iou in ious)
        print_line(f"  {limit:>5}  " + "  ".join(cells))
    if measured.absent:
        print_line(f"{measured.absent} images are not in the store; their objects count as not found", error=True)
