"""A storm of kills: scoring and labelling are killed at random moments until they are through, then bytes are compared.

    python tests/kill_storm.py --kills 100                  about half an hour on two cores
    python tests/kill_storm.py --kills 10 --seed 7          a short one

An undisturbed run of one rank comes first: it has the bytes that every other run must end with. Then each round starts
in an empty folder on 1 to 4 ranks. It is killed, started again on another number of ranks, and killed again, until it
has nothing left to do or its share of kills is used up; then it may finish. A kill counts only if it hit: its target
was alive, and the command did not end well. The table at the end says what was hit, and where. Status 1: a run ended
with other bytes, or was not mended by running it again.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from commands import command, environment
from finished_runs import files_of
from small_datasets import scenes_words
from tiny_models import TinyModels

IMAGES = 16
KILLS_A_ROUND = 5
# Longer than the minute in which ranks that lost their torchrun end.
LIMIT = 240


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return storm(Path(folder), options.kills, random.Random(options.seed))


def storm(folder: Path, kills: int, chance: random.Random) -> int:
    """Runs rounds until there were `kills` kills that hit. Returns the exit status."""
    (folder / "models").mkdir()
    words = [
        *("--config", "coco_vlplm", *TinyModels.write(folder / "models").words(), *scenes_words()),
        *("run.workers=1", "run.images_per_batch=1", "run.images_per_part=1", f"data.limit={IMAGES}"),
    ]
    finish(start(1, [*words, f"run.output={folder / 'undisturbed'}"]))
    expected = files_of(folder / "undisturbed")
    assert len(expected) >= IMAGES + 2, sorted(expected)

    hits: Counter[tuple[str, str]] = Counter()
    missed = wrong = rounds = 0
    while hits.total() < kills:
        rounds += 1
        output = folder / f"round_{rounds}"
        for _ in range(KILLS_A_ROUND):
            labels_only = stored(output) == IMAGES and chance.random() < 0.7
            hit = kill_one(chance, [*words, f"run.output={output}"], output, labels_only)
            if hit is None:
                missed += 1
            else:
                hits[hit] += 1
                print(f"{hits.total()} of {kills}: {hit[0]}, while {hit[1]}", flush=True)
            if stored(output) == IMAGES and hit is None:
                break
        finish(start(chance.randint(1, 3), [*words, f"run.output={output}"]))
        found = files_of(output)
        if found != expected:
            wrong += 1
            differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            print(f"round {rounds} ended with other bytes: {', '.join(differing)}", flush=True)
    for (kind, phase), count in sorted(hits.items()):
        print(f"| {kind} | {phase} | {count} |")
    print(f"{hits.total()} kills that hit, {missed} that came too late, {rounds} rounds, {wrong} with other bytes")
    return 1 if wrong else 0


def kill_one(chance: random.Random, words: list[str], output: Path, labels_only: bool) -> tuple[str, str] | None:
    """Starts the command and kills it. Returns how, and in which phase; None if it ended well all the same."""
    ranks = chance.randint(1, 4)
    process = start(None if labels_only else ranks, words, labels_only=labels_only)
    kinds = ["SIGKILL to all", "SIGTERM", "SIGINT"]
    if not labels_only:
        kinds += ["SIGKILL to one rank", "SIGTERM to one rank", "SIGUSR1 to all ranks", "SIGKILL to torchrun"]
    kind = chance.choices(kinds, [1 if kind == "SIGKILL to torchrun" else 3 for kind in kinds])[0]
    before = stored(output)
    # Half of them while it starts, half once it stores parts or is about to label.
    if chance.random() < 0.3:
        time.sleep(chance.uniform(0.2, 6))
    else:
        deadline = time.monotonic() + LIMIT
        while process.poll() is None and not began(output, before, process, labels_only):
            assert time.monotonic() < deadline, "the command neither worked nor ended"
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 1))
    phase = phase_of(output, before, labels_only)
    with frozen(process) as (main_process, workers):
        if main_process is None:
            return None
        strike(kind, main_process, workers, chance)
    try:
        status = process.wait(LIMIT)
    finally:
        end_group(process)
    wait_for(workers)
    return None if status == 0 else (kind, phase)


@contextmanager
def frozen(process: subprocess.Popen[bytes]) -> Iterator[tuple[psutil.Process | None, list[psutil.Process]]]:
    """The command's process and its ranks, at the moment of the kill."""
    try:
        root = psutil.Process(process.pid)
        workers = [child for child in root.children(recursive=True) if "score.py" in " ".join(child.cmdline())]
        yield (root if process.poll() is None else None), workers
    except psutil.NoSuchProcess:
        yield None, []


def strike(kind: str, root: psutil.Process, workers: list[psutil.Process], chance: random.Random) -> None:
    """Sends the signal of this kind."""
    name, _, target = kind.partition(" to ")
    number = signal.Signals[name]
    # torchrun starts each rank in a process group of its own, so a terminal's Ctrl-C reaches torchrun alone.
    chosen = {"": [root], "torchrun": [root], "all": [root, *workers]}.get(target, workers)
    if target == "one rank" and workers:
        chosen = [chance.choice(workers)]
    for process in chosen or [root]:  # ranks that have not started yet: the command itself
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def start(ranks: int | None, words: list[str], *, labels_only: bool = False) -> subprocess.Popen[bytes]:
    """Starts scoring on some ranks, or labelling, in a process group of its own."""
    script = "label.py" if labels_only else "score.py"
    return subprocess.Popen(
        command(script, *words, ranks=ranks),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    """Waits for a command that must end well."""
    status = process.wait(LIMIT)
    if status:
        raise SystemExit(f"a run that nobody disturbed ended with status {status}: {process.args}")


def began(output: Path, before: int, process: subprocess.Popen[bytes], labels_only: bool) -> bool:
    """Whether the command has come to its work: a part more than before, or two seconds of a labelling's time."""
    if labels_only or before == IMAGES:
        used = psutil.Process(process.pid).cpu_times() if process.poll() is None else None
        return used is None or used.user + used.system > 1
    return stored(output) > before


def phase_of(output: Path, before: int, labels_only: bool) -> str:
    if labels_only:
        return "labelling alone"
    count = stored(output)
    if count == IMAGES:
        return "all parts stored, labelling or closing"
    return "scoring" if count > before else "starting"


def stored(output: Path) -> int:
    return len(list(output.glob("store/parts/[!.]*.parquet")))


def wait_for(workers: list[psutil.Process]) -> None:
    """Waits until ranks that lost their torchrun have ended; a rank that stays is an error."""
    _, alive = psutil.wait_procs(workers, timeout=LIMIT)
    if alive:
        raise SystemExit(f"a rank was still there after {LIMIT} s: {alive}")


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of a command that hangs, so that the storm leaves nothing behind."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise SystemExit(f"the command did not end within {LIMIT} s of its kill")


if __name__ == "__main__":
    sys.exit(main())
