"""The images of a region store that could not be scored, with their reasons, as one HTML file."""

from pathlib import Path

from plgen_ddp.coco import CocoFile
from plgen_ddp.errors import UserError
from plgen_ddp.files import write_atomically
from plgen_ddp.report.gallery import read_thumbnails
from plgen_ddp.report.rendering import ReportSummary, rendered
from plgen_ddp.store import RegionStore


def write_failures(run: Path, output: Path, images: Path | None = None) -> ReportSummary:
    """Writes the images of a store that could not be scored, with their reasons.

    Args:
        run: `run.output` of the scoring. images: the image root, for thumbnails.

    Raises:
        UserError: no store, or no image under `images`.
    """
    store = RegionStore(run / "store")
    manifest = store.manifest()
    failures = store.failures()
    known = {}
    if manifest.annotations is not None and Path(manifest.annotations).is_file():
        known = {image.id: image for image in CocoFile(manifest.annotations, "data.annotations").images()}
    failed = [known[image_id] for image_id, _, _ in failures if image_id in known]
    thumbnails: dict[int, str] = {}
    if images is not None and failed:
        try:
            thumbnails = read_thumbnails(failed, images, Path(manifest.annotations or ""))
        except UserError:
            # Files that are missing may be the very failure; a root that is wrong shows on the other images.
            read_thumbnails([*known.values()][:64], images, Path(manifest.annotations or ""))
    rows = [
        {
            "id": image_id,
            "name": known[image_id].file_name if image_id in known else "",
            "stage": stage,
            "reason": reason,
            "thumbnail": thumbnails.get(image_id, ""),
        }
        for image_id, stage, reason in failures
    ]
    reasons: dict[tuple[str, str], int] = {}
    for _, stage, reason in failures:
        reasons[stage, reason] = reasons.get((stage, reason), 0) + 1
    text = rendered(
        "failures.html",
        {
            "rows": rows,
            "reasons": sorted(reasons.items(), key=lambda item: -item[1]),
            "run": run.name,
            "with_images": images is not None,
        },
    )
    write_atomically(output, [text])
    return ReportSummary(output, len(text), len(rows), 0)
