"""Pseudo labels for open-vocabulary detection as one distributed job: COCO images in, COCO annotations out."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from plgen_ddp.notebook.opened_store import OpenedStore

__all__ = ["__version__", "open_store"]

__version__ = "0.2.0"


def open_store(output: "str | Path", config: "str | Path | None" = None, *words: str) -> "OpenedStore":
    """Opens the region store of a run, to look at it in a notebook or a script.

        store = plgen_ddp.open_store("out/coco", "coco_best")
        store.search("a red umbrella", k=20)

    Args:
        output: the run's `run.output`.
        config: whose names, prompts and rule `label` starts from, as `--config` of the commands; None: the defaults,
            and the encoder that the store's manifest names.
        words: `section.key=value`, as on the command line.

    Raises:
        UserError: no store there, or what a command would refuse in the config and the words.
    """
    from plgen_ddp.notebook.opened_store import OpenedStore  # only here: `import plgen_ddp` stays cheap

    return OpenedStore(output, config, words)
