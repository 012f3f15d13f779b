"""Detectors and CLIP models with seeded random weights, in the files that a user has: for tests and benchmarks.

    python -m plgen_ddp.benchmark.seeded_models OUT_DIR                            # tiny: seconds, about 9 MB
    python -m plgen_ddp.benchmark.seeded_models OUT_DIR --full --image photo.jpg   # R50-FPN, ViT-B/32: minutes, 480 MB

writes detector.yaml and detector.pth (detectron2: a class-agnostic Mask R-CNN) and clip.pt (a state dict for
`clip.load`). The weights have learned nothing, so the labels they give mean nothing. Their scale is that of trained
models, which plain random initialisation does not give: features neither vanish nor explode, objectness and class
probabilities spread over their range, and a box stays a box through ten refinement passes. The same seed and the same
images give the same bytes.

detectron2 and clip are imported inside functions. These builders know both libraries' own classes and nothing of the
rest of plgen_ddp, so that what they write tests the package's loaders.
"""

from plgen_ddp.benchmark.seeded_models.clip_model import write_full_clip, write_tiny_clip
from plgen_ddp.benchmark.seeded_models.detector import (
    FULL_DETECTOR_YAML,
    TINY_DETECTOR_YAML,
    write_full_detector,
    write_tiny_detector,
)
from plgen_ddp.benchmark.seeded_models.scenes import generated_scene

__all__ = [
    "FULL_DETECTOR_YAML",
    "TINY_DETECTOR_YAML",
    "generated_scene",
    "write_full_clip",
    "write_full_detector",
    "write_tiny_clip",
    "write_tiny_detector",
]
