"""What stage 1 costs, beside the reference recipe on the same images. README.md here says how to read the figures.

`run` plans and reports. `inputs` writes the files that all runs share. `processes` starts the timed processes, which
are `timed_job` and `timed_reference`. `measurement` holds the record of a run and the instruments, `agreement` compares
the results of two precisions, `tables` and `hardware` print. `reference_recipe` and `seeded_models` know nothing of
the rest of plgen_ddp; tests use them too.

`label_speed` does the same for stage 2, on a store from `synthetic_store`, with `reference_labelling` and
`timed_process` as its processes.

Three more are commands: `scale` measures what very many images cost around the work, `stragglers` simulates ranks of
unequal speed, `damage` counts which damage of image files is noticed.
"""
