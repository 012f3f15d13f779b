"""What the demo's CLIP is shown: the words of its prompts, and crops of drawn scenes as the job makes them."""

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from plgen_ddp.demo.drawings import KINDS
from plgen_ddp.demo.scenes import BASE, JPEG_QUALITY, NOVEL, SUPERS, SceneImage

NAMES = (*BASE, *NOVEL)
KIND_NAMES = tuple(kind for name in NAMES for kind in KINDS[name])
SUPER_NAMES = tuple(dict.fromkeys(general for name in NAMES for general in SUPERS[name]))
TEXTS = (*NAMES, *KIND_NAMES, *SUPER_NAMES)  # a column of the loss each
# What a caption calls an object: by its name, its kind, or something more general. Each has its own columns of TEXTS.
LEVELS = (len(NAMES), len(KIND_NAMES), len(SUPER_NAMES))
RESOLUTION = 64  # pixels
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own, RGB
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

_PHOTOS = (
    *("photo", "good photo", "bad photo", "bright photo", "dark photo", "low resolution photo", "cropped photo"),
    *("close-up photo", "jpeg corrupted photo", "blurry photo", "pixelated photo", "black and white photo"),
    *("painting", "drawing", "picture"),
)
LOOKS = (
    *("nice", "cool", "weird", "small", "large", "clean", "dirty", "hard to see"),
    *("plastic", "toy", "plushie", "cartoon", "embroidered"),
)
_DETERMINERS = ("a", "the", "my", "one", "many")
_SCENE = " in the scene."


def _with_article(words: str) -> str:
    """The words behind a or an."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def templates() -> tuple[str, ...]:
    """Prompt templates with `{}` for the name; among them, up to "a" for "an", the common CLIP prompts."""
    plain = [f"{determiner} {{}}" for determiner in _DETERMINERS]
    looks = [f"{determiner} {look} {{}}" for look in LOOKS for determiner in ("a", "the")]
    photos = [f"{_with_article(photo)} of {thing}" for photo in _PHOTOS for thing in (*plain, *looks)]
    loose = [f"{start}{thing}" for thing in (*plain, *looks) for start in ("itap of ", "There is ", "")]
    endless = ["{}", *loose, *photos]
    return tuple(text + end for text in endless for end in ("", ".", _SCENE))


def photo_of(scene: SceneImage) -> Image.Image:
    """The scene as the job sees it: through JPEG, RGB."""
    _, data = cv2.imencode(".jpg", scene.pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return Image.fromarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def scene_boxes(scene: SceneImage) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, float (n, 4) xyxy, the indices of their names into NAMES and of their kinds into KIND_NAMES, int (n,)."""
    boxes = np.array([item.box_xywh for item in scene.objects], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    names = np.array([NAMES.index(item.name) for item in scene.objects], dtype=int)
    return boxes, names, np.array([KIND_NAMES.index(item.kind) for item in scene.objects], dtype=int)


def random_boxes(rng: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """Boxes of 16 to 140 px anywhere in an image of `size` (width, height), (count, 4) xyxy."""
    extent = np.exp(rng.uniform(np.log(16), np.log(140), (count, 2)))
    extent[:, 1] = np.clip(extent[:, 1], extent[:, 0] / 2, extent[:, 0] * 2)
    corner = rng.random((count, 2)) * np.maximum(np.array(size) - extent, 1)
    return np.concatenate([corner, corner + extent], axis=1)


def crop(image: Image.Image, box_xyxy: np.ndarray, scale: float) -> np.ndarray:
    """The job's crop of one box at one scale through CLIP's preprocessing, uint8 (64, 64, 3), RGB."""
    centre, half = (box_xyxy[:2] + box_xyxy[2:]) / 2, (box_xyxy[2:] - box_xyxy[:2]) / 2 * scale
    x0, y0 = np.maximum(centre - half, 0)
    x1, y1 = np.minimum(centre + half, image.size)
    left, top, right, bottom = (round(float(edge)) for edge in (x0, y0, x1, y1))  # half to even
    width, height = right - left, bottom - top
    short = min(width, height)
    size = (int(RESOLUTION * width / short), int(RESOLUTION * height / short))
    resized = image.crop((left, top, right, bottom)).resize(size, Image.Resampling.BICUBIC)
    left, top = (round((extent - RESOLUTION) / 2) for extent in size)
    return np.asarray(resized.crop((left, top, left + RESOLUTION, top + RESOLUTION)))


def pixels(crops: np.ndarray) -> Tensor:
    """CLIP's normalised input, float32 (n, 3, 64, 64), channels last in memory, from uint8 (n, 64, 64, 3), RGB."""
    scaled = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
