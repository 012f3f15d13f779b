"""The content of the images: equal images under different names, and a comparison with a list of digests."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from plgen_ddp.coco import CocoFile
from plgen_ddp.config import Config
from plgen_ddp.doctor.findings import Finding
from plgen_ddp.errors import UserError
from plgen_ddp.files import file_sha256
from plgen_ddp.image_files import index_images
from plgen_ddp.options import given
from plgen_ddp.plurals import counted
from plgen_ddp.processor import available_cores

_SHOWN = 3  # names in a line


def check_digests(config: Config, lacking: set[str], known: Path | None) -> Iterator[Finding]:
    """Reads every image, and reports those with the same bytes, and those that differ from the list.

    Args:
        lacking: options without a value; nothing is checked where the images' are among them.
        known: lines of a SHA-256 and a file name, as `sha256sum` writes them; names are compared without folders.
    """
    if lacking & {"data.annotations", "data.image_root"}:
        return
    annotations = Path(given(config.data.annotations))
    try:
        index = index_images(
            CocoFile(annotations, "data.annotations").images(),
            given(config.data.image_root),
            annotations,
            follow_links=config.data.follow_links,
        )
    except UserError:  # the check of the data says so
        return
    index = index.first(config.data.limit)
    paths = [index.path(position) for position in range(len(index))]
    with ThreadPoolExecutor(available_cores()) as pool:
        digests = list(pool.map(_digest, paths))
    yield _same(paths, digests)
    if known is not None:
        yield _compared(paths, digests, known)


def _digest(path: Path) -> str | None:
    """SHA-256 of a file, hexadecimal; None where it is no file that can be read."""
    try:
        if not path.is_file():
            return None
        return file_sha256(path)
    except OSError:  # the check of the decoding says so
        return None


def _same(paths: list[Path], digests: list[str | None]) -> Finding:
    groups: dict[str, list[str]] = {}
    for path, digest in zip(paths, digests, strict=True):
        if digest is not None:
            groups.setdefault(digest, []).append(path.name)
    groups = {digest: names for digest, names in groups.items() if len(names) > 1}
    if not groups:
        return Finding("digests", "ok", f"{counted(len(paths), 'image')}, no two of them equal")
    shown = "; ".join(" = ".join(names[:_SHOWN]) for names in list(groups.values())[:_SHOWN])
    copies = sum(map(len, groups.values())) - len(groups)
    remedy = "leave the copies out of the JSON, or training sees them twice"
    found = counted(copies, "image is a copy of another", "images are copies of others")
    return Finding("digests", "warning", f"{found}: {shown}", remedy)


def _compared(paths: list[Path], digests: list[str | None], known: Path) -> Finding:
    try:
        lines = [line.split(maxsplit=1) for line in known.read_text().splitlines() if line.strip()]
        expected: dict[str, set[str]] = {}
        for digest, name in lines:  # a name in several folders has a digest for each
            expected.setdefault(Path(name.lstrip("*")).name, set()).add(digest.lower())
    except (OSError, ValueError) as error:
        remedy = "make the list with sha256sum"
        return Finding("known digests", "error", f"{known} is no list of digests and names: {error}", remedy)
    found = [(path.name, digest) for path, digest in zip(paths, digests, strict=True)]
    unlike = [name for name, digest in found if name in expected and digest not in expected[name]]
    unknown = [name for name, _ in found if name not in expected]
    if unlike:
        shown = ", ".join(unlike[:_SHOWN])
        message = f"{counted(len(unlike), 'image differs', 'images differ')} from {known}: {shown}"
        return Finding("known digests", "error", message, "copy such images again")
    if unknown:
        shown = ", ".join(unknown[:_SHOWN])
        remedy = "compare with a list of all images"
        message = f"{counted(len(unknown), 'image is', 'images are')} not in {known}: {shown}"
        return Finding("known digests", "warning", message, remedy)
    return Finding("known digests", "ok", f"{counted(len(found), 'image')} as in {known}")
