"""A small learned world: drawn scenes in COCO's layout, and a detector and a CLIP trained on them from nothing.

It lets the real job run, with results that mean something, minutes after cloning and without a download. The models
know the 18 names of `plgen_ddp.demo.scenes`, their kinds and their more general names, and nothing else.
"""
