"""Times a command from its start to its end, and its peak memory.

    python -m plgen_ddp.benchmark.timed_process RESULT.json COMMAND ...

A small process of its own: what a process has in memory when it starts another one counts as that one's peak.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def main(words: list[str]) -> int:
    """Takes the path of the result and the command. Returns the command's exit status."""
    result, *command = words
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured = {
        "seconds": seconds,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_memory": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
    Path(result).write_text(json.dumps(measured))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
