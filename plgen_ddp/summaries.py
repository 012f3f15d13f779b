"""What a command says at its end: of a scoring, an import, a labelling, an audit and an evaluation."""

import statistics
from collections import Counter
from collections.abc import Sequence

from plgen_ddp.console import print_line
from plgen_ddp.figures import Evaluation, PublishedFigures, StoreRecall
from plgen_ddp.plurals import are, counted
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
            f"scored {counted(images, 'image')}, {counted(boxes, 'box', 'boxes')} in {seconds:.1f} s "
            f"({images / seconds:.2f} images/s) on {counted(len(summaries), 'rank')}; peak memory of a rank {memory}"
        )
    else:
        print_line(
            f"nothing to score: {'all ' if stored > 1 else ''}{counted(stored, 'image is', 'images are')} in the store"
        )
    _print_ranks(summaries)
    waited = sum(summary.waited for summary in summaries) / max(sum(summary.seconds for summary in summaries), 1e-9)
    if waited > _MUCH_WAITING and seconds > _SHORT_RUN:
        print_line(f"{waited:.0%} of the time went by waiting for images; more run.workers may help", error=True)
    if failures:
        failed = counted(len(failures), "image")
        print_line(f"{failed} could not be scored (run.max_failures={max_failures}):", error=True)
        for (stage, reason), count in Counter((stage, reason) for _, stage, reason in failures).most_common(10):
            first = next(image_id for image_id, *why in failures if why == [stage, reason])
            print_line(f"  {count} x {stage}: {shortened(reason, MESSAGE)} (first: image {first})", error=True)
        print_line("  run.retry_failures=true scores again what has been mended", error=True)


def _print_ranks(summaries: Sequence[RankSummary]) -> None:
    """A line for each of several ranks; on stderr, in a run that is long enough to judge, those that were slow."""
    if len(summaries) == 1 or not any(summary.images for summary in summaries):
        return
    rates = [summary.images / max(summary.seconds, 1e-9) for summary in summaries]
    for rank, (summary, rate) in enumerate(zip(summaries, rates, strict=True)):
        times = f"{counted(summary.images, 'image')} in {summary.seconds:.1f} s ({rate:.2f} images/s)"
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
        f"wrote {summary.store}: {counted(summary.images, 'image')}, {counted(summary.boxes, 'box', 'boxes')} from "
        f"{counted(summary.files, 'file')}"
    )
    for image_ids, where, what in (
        (summary.twice, "", "in the files more than once; the first copy, by file name, is stored"),
        (summary.unknown, " of the files", "not in data.annotations, and left out"),
        (summary.missing, " of data.annotations", "in no file; label.allow_partial=true labels the others"),
    ):
        if image_ids:
            images = f"{counted(len(image_ids), 'image')}{where} {are(len(image_ids))}"
            print_line(f"note: {images} {what} (first: image {image_ids[0]})", error=True)


def print_labels(summary: LabelSummary) -> None:
    """What a labelling wrote, on stdout; images without labels because they failed, on stderr."""
    print_line(
        f"wrote {summary.path}: {counted(summary.pseudo_labels, 'pseudo label')} on "
        f"{counted(summary.images, 'image')} ({summary.pseudo_labels / summary.images:.2f} an image), "
        f"{counted(summary.base_annotations, 'base annotation')} kept"
    )
    if summary.failed_images:
        images = ("image has no pseudo labels because it", "images have no pseudo labels because they")
        print_line(f"{counted(summary.failed_images, *images)} could not be scored", error=True)


def print_audit(result: Audit) -> None:
    """Each leak as a line on stderr; then, on stdout, what was looked at."""
    for leak in result.leaks:
        print_line(f"leak: {leak}", error=True)
    equal = counted(result.unjudged, "label equals", "labels equal")
    chance = f"; {equal} a novel annotation by chance" if result.unjudged else ""
    print_line(
        f"audited {counted(result.pseudo_labels, 'pseudo label')} and "
        f"{counted(result.base_annotations, 'base annotation')} of {counted(result.images, 'image')}: "
        f"{'it leaks' if result.leaks else 'no leak'}{chance}"
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
        f"(all labels at their {at}, IoU 0.5, {counted(quality.objects, 'object')})"
    )
    on_base = f"a base object {quality.base_object:.1%}" if result.base_objects else "no base annotations to compare"
    print_line(
        f"wrong labels: no object {quality.background:.1%}, {on_base}, a part {quality.part:.1%}, "
        f"a wrong name {quality.wrong_name:.1%}, a duplicate {quality.duplicate:.1%}"
    )
    if result.store is not None:
        _print_store_recall(result.store)


def _metrics(result: Evaluation | PublishedFigures) -> str:
    sizes = "/".join(map(_share, (result.AP_small, result.AP_medium, result.AP_large)))
    return (
        f"AP {_share(result.AP)}  AP50 {_share(result.AP50)}  AP75 {_share(result.AP75)}  small/medium/large {sizes}  "
        f"AR@100 {_share(result.AR100)}  ({counted(result.pseudo_labels, 'pseudo label')} on "
        f"{counted(result.images, 'image')}, {result.pls_per_image:.2f} an image)"
    )


def _share(value: float) -> str:
    """A figure of pycocotools, which has -1 where there are no objects."""
    return "-" if value < 0 else f"{value:.3f}"


def _print_store_recall(measured: StoreRecall) -> None:
    """A line for each number of boxes, a column for each group and IoU."""
    groups = {row.group: row.objects for row in measured.rows}
    ious = dict.fromkeys(row.iou for row in measured.rows)
    shares = {(row.limit, row.group, row.iou): f"{row.recall:.3f}" if row.objects else "-" for row in measured.rows}
    counts = ", ".join(counted(objects, f"{group} object") for group, objects in groups.items())
    print_line(f"recall of the store's boxes, whatever their names ({counts})")
    print_line("  boxes  " + "  ".join(f"{f'{group} IoU {iou:g}':>14}" for group in groups for iou in ious))
    for limit in dict.fromkeys(row.limit for row in measured.rows):
        cells = (f"{shares[limit, group, iou]:>14}" for group in groups for iou in ious)
        print_line(f"  {limit:>5}  " + "  ".join(cells))
    if measured.absent:
        absent = counted(measured.absent, "image is", "images are")
        print_line(f"{absent} not in the store; objects there count as not found", error=True)
