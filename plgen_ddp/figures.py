"""What an evaluation finds: records of figures, without the libraries that compute them."""

from dataclasses import dataclass

from plgen_ddp.label_quality import LabelQuality


@dataclass(frozen=True, slots=True)
class BoxRecall:
    """How many objects an image's first boxes find, whatever their names.

    Attributes:
        group: "base" or "novel".
        limit: how many boxes of an image count.
        iou: from which a box finds an object.
        objects: how many there are.
        recall: the share of them that is found, one to one; -1 where there is no object.
    """

    group: str
    limit: int
    iou: float
    objects: int
    recall: float


@dataclass(frozen=True, slots=True)
class StoreRecall:
    """What the boxes of a region store find.

    Attributes:
        rows: for each group, number of boxes and IoU.
        absent: evaluated images that the store lacks; their objects count as not found.
    """

    rows: tuple[BoxRecall, ...]
    absent: int


@dataclass(frozen=True, slots=True)
class BoxMetrics:
    """COCO's box metrics over the novel names: AP and AR in [0, 1], or -1 where there is no such ground truth.

    Attributes:
        AP, AP50, AP75: average precision over the IoUs 0.5 to 0.95, at 0.5, at 0.75.
        AP_small, AP_medium, AP_large: AP for objects of under 32 x 32 pixels, up to 96 x 96, and above.
        AR100: average recall with 100 boxes an image.
    """

    AP: float
    AP50: float
    AP75: float
    AP_small: float
    AP_medium: float
    AP_large: float
    AR100: float


@dataclass(frozen=True, slots=True)
class PublishedFigures(BoxMetrics):
    """What others published of their pseudo labels.

    Attributes:
        title: whose figures they are. protocol: what one has to do to compare.
        pseudo_labels, images: how many were evaluated.
    """

    title: str
    protocol: str
    pseudo_labels: int
    images: int

    @property
    def pls_per_image(self) -> float:
        """Pseudo labels an image, counting images without any."""
        return self.pseudo_labels / self.images


@dataclass(frozen=True, slots=True)
class Evaluation(BoxMetrics):
    """What the pseudo labels of a file are worth.

    Attributes:
        pls_per_image: pseudo labels an evaluated image, counting images without any.
        pseudo_labels, images: how many were evaluated.
        AP50_by_name: each novel name's own.
        score_threshold: the threshold that the labels were made with, where the file says one number.
        quality: what is right and what is wrong with the labels, all of the file.
        base_objects: annotations of base names in the evaluated images; without any, no label can be on one.
        store: what the boxes of the region store find; None where no store was given.
        published: figures of others on the same data; None where there are none.
    """

    pls_per_image: float
    pseudo_labels: int
    images: int
    AP50_by_name: dict[str, float]
    score_threshold: float | None
    quality: LabelQuality
    base_objects: int
    store: StoreRecall | None
    published: PublishedFigures | None
