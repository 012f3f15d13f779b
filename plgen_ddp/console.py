"""Everything that a person reads: lines, the progress bar, summaries, and errors in one line."""

import contextlib
import json
import logging
import os
import statistics
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from plgen_ddp.errors import PeerError, StoppedError, UserError, user_message
from plgen_ddp.figures import Evaluation, PublishedFigures, StoreRecall
from plgen_ddp.records import Audit, ImportSummary, LabelSummary, RankSummary
from plgen_ddp.screen_text import MESSAGE, encodable, shortened, visible, visible_lines, visible_name

# Seconds between two readings of the counter, and between two plain lines: a batch job's log stays readable.
_REFRESH = 0.5
_LINE_EVERY = 15.0
# From this share of the ranks' time on, waiting for images is worth a line. A short run waits for its first image.
_MUCH_WAITING = 0.1
_SHORT_RUN = 60.0
# A rank below this share of the median rank's images a second is called slow.
_SLOW = 0.8
# Seconds that a rank leaves to the rank whose error it shares; see `one_line_errors`.
_LINGER = 5.0


_log = logging.getLogger("plgen_ddp")


@dataclass
class _Process:
    """Which rank this process is, and where torchrun wants to find why it failed; set by `identify_process`."""

    rank: int = 0
    torchrun_error_file: Path | None = None


_process = _Process()


def identify_process(rank: int, torchrun_error_file: Path | None) -> None:
    """Says which rank's lines this process prints.

    Args:
        torchrun_error_file: torchrun prints this file's message at the end of its own report of a failed rank; None
            without torchrun.
    """
    _process.rank, _process.torchrun_error_file = rank, torchrun_error_file


@contextlib.contextmanager
def rank_log(folder: Path) -> Iterator[None]:
    """Keeps what this rank prints or logs, and the traceback of an error, in `folder`/rank-N.txt, with the time.

    A resumed run appends to the file.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / f"rank-{_process.rank}.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"run.output: cannot write {path}: {error.strerror}") from None
    handler.setFormatter(_LogLine("%(asctime)s %(message)s"))
    level, propagate = _log.level, _log.propagate
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False
    try:
        yield
    except UserError as error:
        _log.info("error: %s", error)
        raise
    except StoppedError as error:
        _log.info("%s", error)
        raise
    except BaseException as error:
        _log.info("stopped by %s", type(error).__name__, exc_info=not isinstance(error, KeyboardInterrupt))
        raise
    finally:
        _log.setLevel(level)
        _log.propagate = propagate
        _log.removeHandler(handler)
        handler.close()


def print_line(line: str, *, error: bool = False) -> None:
    """Prints one line on stdout or stderr and flushes it; the rank's log keeps it too.

    The line may hold names and paths that others chose: `visible` makes them harmless. A closed pipe or a full disk
    must not cost the work that the line reports. After the first such failure the stream is silent.
    """
    _print(visible(line), error)


def print_text(text: str, *, error: bool = False) -> None:
    """Prints several lines that are our own, such as a table or a help text; like `print_line` otherwise.

    Its line ends are kept, so names in it are to be made harmless first (`visible_name`).
    """
    _print(visible_lines(text), error)


def _print(text: str, error: bool) -> None:
    for line in text.split("\n"):
        _log.info("%s", line)
    stream = sys.stderr if error else sys.stdout
    try:
        print(encodable(text, stream.encoding or "utf-8"), file=stream, flush=True)
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _LogLine(logging.Formatter):
    """A record is one line, and the lines of a traceback below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = visible(record.message)
        return super().formatMessage(record)


@contextlib.contextmanager
def one_line_errors(*, resumes: bool = False) -> Iterator[None]:
    """Turns a user's mistake into one line and exit status 2, Ctrl-C into 130, a signal to stop into 75.

    A bug keeps its traceback.

    Under torchrun the line goes into torchrun's own report, which prints it last. Printed here, it would be 25 lines
    above the end of the screen.

    Args:
        resumes: whether the same command goes on where it was interrupted.
    """
    try:
        yield
    except (UserError, OSError) as error:
        if (message := user_message(error)) is None:
            raise
        message = visible(message, MESSAGE)
        if isinstance(error, PeerError):
            # torchrun's report ends with the first rank that failed, and ends the others. That should be the rank whose
            # own message this is; on another node, this rank's report is the only one.
            time.sleep(_LINGER)
        if _process.torchrun_error_file is not None:
            _leave_to_torchrun(_process.torchrun_error_file, f"error: {message}")
        else:
            print_line(f"error: {message}", error=True)
        raise SystemExit(2) from None
    except StoppedError as error:
        message = f"{error}; the same command goes on from what is stored"
        if _process.torchrun_error_file is not None:
            _leave_to_torchrun(_process.torchrun_error_file, message)
        if _process.rank == 0 or _process.torchrun_error_file is None:
            print_line(message, error=True)
        raise SystemExit(StoppedError.STATUS) from None
    except KeyboardInterrupt:
        if _process.rank == 0:
            goes_on = "; the same command goes on from what is stored" if resumes else ""
            print_line(f"interrupted{goes_on}", error=True)
        raise SystemExit(130) from None


def end_with(main: Callable[[], int | None]) -> NoReturn:
    """Runs a rank's command and ends the process with its status, without the interpreter's own clean-up.

    That clean-up has now and then aborted ranks that had ended well, and ranks that had said what a user's mistake was
    ("terminate called without an active exception"): it destroys what a library's thread still uses.
    """
    try:
        status = main() or 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        if isinstance(ending.code, str):
            print_line(ending.code, error=True)
    except KeyboardInterrupt:  # before the command's own handling of mistakes, or after it
        if _process.rank == 0:
            print_line("interrupted", error=True)
        status = 130
    except BaseException:
        traceback.print_exc()
        status = 1
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def failed_status(message: str) -> int:
    """Exit status 1, with the reason: on stderr, or under torchrun at the end of its report."""
    if _process.torchrun_error_file is not None:
        _log.info("error: %s", message)
        _leave_to_torchrun(_process.torchrun_error_file, f"error: {message}")
    else:
        print_line(f"error: {message}", error=True)
    return 1


def _leave_to_torchrun(path: Path, message: str) -> None:
    """Writes why this rank failed in the form that torch.distributed.elastic reads; torchrun prints it as it is."""
    message = visible(message)
    why = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
    try:
        path.write_text(json.dumps({"message": why}))
    except OSError:
        print_line(message, error=True)


class Progress:
    """Counts images over all ranks and shows the count on one rank: a bar on a terminal, plain lines elsewhere.

    Ranks share only a counter, and none waits for another. A thread of the showing rank reads it twice a second, also
    when that rank is done and others are not.
    """

    def __init__(self, count: Callable[[int], int], total: int, *, shown: bool) -> None:
        """
        Args:
            count: adds to the counter of all ranks and returns its value (`World.count`).
            total: images to score now, over all ranks.
            shown: whether this process shows the progress.
        """
        self._count = count
        self._total = total
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True) if shown and total else None
        self._start = time.monotonic()

    def advance(self, images: int) -> None:
        """Adds to the count of all ranks."""
        self._count(images)

    def __enter__(self) -> "Progress":
        self._start = time.monotonic()
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _show(self) -> None:
        terminal = sys.stderr.isatty()
        bar = tqdm(total=self._total, unit="image", desc="scoring", disable=not terminal, dynamic_ncols=True)
        next_line = self._start + _LINE_EVERY
        finished = False
        while not finished:
            finished = self._done.wait(_REFRESH)
            try:
                scored = self._count(0)
            except PeerError:  # the rank itself finds out too, and stops
                return
            bar.update(scored - bar.n if terminal else 0)
            if not terminal and (finished or time.monotonic() >= next_line):
                next_line += _LINE_EVERY
                print_line(self._line(scored), error=True)
        bar.close()

    def _line(self, scored: int) -> str:
        rate = scored / max(time.monotonic() - self._start, 1e-9)
        left = tqdm.format_interval((self._total - scored) / rate) if scored else "?"
        return f"scored {scored} of {self._total} images, {rate:.2f} images/s, {left} left"


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
