"""A labelling that ends with a report, where `report.write` asks for one."""

from pathlib import Path

from plgen_ddp.coco_boxes import read_ground_truth
from plgen_ddp.config import Config
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.files import check_output
from plgen_ddp.label.job import label_store
from plgen_ddp.label.plan import labelling_inputs, plan_labelling
from plgen_ddp.options import given
from plgen_ddp.summaries import print_labels


def check_report(config: Config) -> None:
    """Finds, before the work starts, what would keep the report from being written at its end.

    Raises:
        UserError: a ground truth that cannot be read, an image root that is no folder, or an output that is an input.
    """
    if not config.report.write:
        return
    inputs = {"label.output": _labels(config), "report.ground_truth": config.report.ground_truth}
    check_output(_output(config), "report.output", labelling_inputs(config) | inputs)
    if config.report.ground_truth is not None:
        read_ground_truth(Path(config.report.ground_truth))
    if config.data.image_root is not None and not Path(config.data.image_root).is_dir():
        raise UserError(f"data.image_root: no folder at {config.data.image_root}")


def label_and_report(config: Config) -> None:
    """Labels from the store, writes the report of it, and says what was written.

    Raises:
        UserError: what `check_report`, `label_store` and `write_report` raise.
    """
    check_report(config)
    plan = plan_labelling(config)
    if config.report.write:
        check_output(_output(config), "report.output", {"the JSON to label": plan.coco.path})
    print_labels(label_store(plan))
    if not config.report.write:
        return
    from plgen_ddp.report.page import write_report  # brings matplotlib, which no other labelling needs

    truth, images = config.report.ground_truth, config.data.image_root
    made = write_report(
        _labels(config),
        _output(config),
        ground_truth=None if truth is None else Path(truth),
        images=None if images is None else Path(images),
        run=Path(given(config.run.output)),
    )
    print_line(f"wrote {made.path}: {made.images} images shown, {made.size / 1e6:.1f} MB")


def _labels(config: Config) -> Path:
    return Path(config.label.output or Path(given(config.run.output), "labels.json"))


def _output(config: Config) -> Path:
    return Path(config.report.output or _labels(config).with_name("report.html"))
