"""Pseudo labels for open-vocabulary detection as one distributed job: COCO images in, COCO annotations out."""

__version__ = "0.2.0"
