"""Which files are read as images. Scoring, training and pictures obey the same options."""

from dataclasses import dataclass

from plgen_ddp.options import check, decides_nothing

DAMAGED = ("refuse", "accept")


# An image that is read gives the same pixels whatever these are: they decide only which images fail.
@dataclass(frozen=True)
class ImageRules:
    """What a file must be to be read as an image. One that is not fails with the reason."""

    max_pixels: int = decides_nothing(64_000_000)
    """Images of more pixels than this fail before they are decoded. One such image takes 200 MB, some formats three
    times that while they are decoded."""

    max_bytes: int = decides_nothing(100_000_000)
    """Larger files fail unread."""

    follow_links: bool = decides_nothing(False)
    """Whether symbolic links below the image root may lead out of it. false: such images fail. The image root itself
    may always be a link."""

    damaged: str = decides_nothing("refuse")
    """Images whose decoder warns of damage, and PNG files whose checksums are wrong. refuse: they fail. accept: they
    are taken as decoded, often with grey or shifted parts. Files that end too early fail in both cases. A scoring
    tries images again that have failed where `run.retry_failures` is true."""

    def __post_init__(self) -> None:
        check(self.max_pixels > 0, "data.max_pixels", self.max_pixels, "1 or more")
        check(self.max_bytes > 0, "data.max_bytes", self.max_bytes, "1 or more")
        check(self.damaged in DAMAGED, "data.damaged", self.damaged, "one of " + ", ".join(DAMAGED))


DEFAULT_RULES = ImageRules()
