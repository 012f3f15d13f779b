"""Seeded models in the form of the real ones, small enough for any test."""

from dataclasses import dataclass
from pathlib import Path

from plgen_ddp.benchmark.seeded_models import write_tiny_clip, write_tiny_detector


@dataclass(frozen=True)
class TinyModels:
    """The files that a user names: a detectron2 config, a detector's checkpoint, a CLIP checkpoint."""

    config: Path
    weights: Path
    clip: Path

    @classmethod
    def write(cls, folder: Path) -> "TinyModels":
        config, weights = write_tiny_detector(folder, seed=0)
        return cls(config, weights, write_tiny_clip(folder, seed=0))

    def words(self) -> list[str]:
        """The options that make a job use these models, in the arithmetic that is the same on every machine."""
        return [
            f"detector.config={self.config}",
            f"detector.weights={self.weights}",
            f"clip.model={self.clip}",
            "clip.activation=quick_gelu",
            "detector.precision=fp32",
            "clip.precision=fp32",
        ]
