"""One short script a verb; installed as plgen_ddp.launch for the entry points."""
