"""Pictures drawn from a seed: what seeded models are calibrated on, and what a benchmark without photos runs on."""

import cv2
import numpy as np


def generated_scene(seed: int = 0, height: int = 480, width: int = 640) -> np.ndarray:
    """A picture with a photo's statistics where they matter here: shading, edges at every scale, calm and busy places.

    Returns uint8 (height, width, 3), BGR.
    """
    random = np.random.default_rng(seed)
    coarse = _natural_colours(random, 6 * 8).reshape(6, 8, 3)
    canvas = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    shapes = int(np.exp(random.uniform(np.log(30), np.log(1500))))
    # From large to small, as a small object in front of a large one stays visible.
    sizes = np.sort(np.exp(random.uniform(np.log(2), np.log(height / 4), shapes)))[::-1]
    band_top, band_height = random.uniform(0, 0.6) * height, random.uniform(0.3, 0.6) * height
    for size, colour in zip(sizes, _natural_colours(random, shapes), strict=True):
        # Small shapes crowd in one band and leave the rest calm.
        y = random.uniform(0, height) if size > 20 else random.uniform(band_top, band_top + band_height)
        center = (int(random.uniform(0, width)), int(y))
        axes = (int(size), max(1, int(size * random.uniform(0.2, 1.0))))
        angle = float(random.uniform(0, 180))
        bgr = tuple(float(value) for value in colour)
        if random.random() < 0.5:
            cv2.ellipse(canvas, center, axes, angle, 0, 360, bgr, -1)
        else:
            corners = cv2.boxPoints((center, (2 * axes[0], 2 * axes[1]), angle))
            cv2.fillPoly(canvas, [corners.astype(np.int32)], bgr)
    grain = random.normal(0, 5, canvas.shape)
    return np.clip(canvas + grain, 0, 255).astype(np.uint8)


def _natural_colours(random: np.random.Generator, count: int) -> np.ndarray:
    """Mostly grey levels, with some colour: float32 (count, 3)."""
    return (random.uniform(0, 255, (count, 1)) + random.normal(0, 30, (count, 3))).clip(0, 255).astype(np.float32)
