"""plgen_ddp: pseudo labels for open-vocabulary detection, from COCO images to COCO annotations, as one distributed job."""

__version__ = "0.1.0"
