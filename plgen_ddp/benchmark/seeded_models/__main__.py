"""The command line of the seeded models."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.benchmark import seeded_models


def main(words: Sequence[str] | None = None) -> None:
    """Writes the models that the words ask for. The package's docstring is the manual."""
    parser = argparse.ArgumentParser(
        prog="python -m plgen_ddp.benchmark.seeded_models",
        description=seeded_models.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out_dir", type=Path, help="where detector.yaml, detector.pth and clip.pt go")
    parser.add_argument("--full", action="store_true", help="R50-FPN and ViT-B/32 instead of tiny models")
    parser.add_argument(
        "--image", type=Path, help="calibrate the detector on this image as well as on generated scenes"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides the weights (default: 0)")
    options = parser.parse_args(words)
    try:
        if options.full:
            detector_files = seeded_models.write_full_detector(options.out_dir, options.image, options.seed)
            clip_file = seeded_models.write_full_clip(options.out_dir, options.seed)
        else:
            images = [] if options.image is None else [options.image]
            detector_files = seeded_models.write_tiny_detector(options.out_dir, images, options.seed)
            clip_file = seeded_models.write_tiny_clip(options.out_dir, options.seed)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for path in (*detector_files, clip_file):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
