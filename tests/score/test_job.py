"""The whole job through the user's own commands: real torchrun, real photos, real failures."""

import json
import os
import re
import shutil
import subprocess
import time

import psutil
import pytest
from conftest import REPOSITORY, command, run, take_images
from pycocotools.coco import COCO

from plgen_ddp.store import RegionStore

CONFIG = ["--config", REPOSITORY / "configs" / "coco_vlplm.yaml"]
IMAGES = 14
# A line of a traceback through the package. torchrun prints one of its own when a rank ends with a status.
OWN_FRAME = re.compile(r"plgen_ddp/\w+\.py")
# Small units, so that few images are many parts and every rank has several.
SETTINGS = ["run.workers=1", "run.images_per_batch=2", "run.images_per_part=2", f"data.limit={IMAGES}"]


@pytest.fixture(scope="module")
def words(coco_mini, tiny_models):
    annotations = coco_mini / "annotations" / "instances_val2017.json"
    return [
        *CONFIG,
        *tiny_models.overrides(),
        *SETTINGS,
        f"data.annotations={annotations}",
        f"data.image_root={coco_mini}",
    ]


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory):
    """Output folder of the job on two ranks, and what it printed."""
    output = tmp_path_factory.mktemp("two_ranks") / "out"
    done = run(command("score.py", *words, f"run.output={output}", ranks=2))
    return output, done


def files_of(output):
    """Name and content of every file of a run that decides anything."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.suffix != ".npz"
    }


def test_two_ranks_label_every_image(finished, coco_mini):
    output, done = finished
    written = json.loads((output / "labels.json").read_text())
    source = take_images(coco_mini, "val2017", IMAGES)
    assert sorted(image["id"] for image in written["images"]) == [image["id"] for image in source["images"]]
    names = {category["id"]: category["name"] for category in source["categories"]}
    provenance = written["info"]["plgen_ddp"]
    kept = [row for row in source["annotations"] if names[row["category_id"]] in provenance["label"]["base"]]
    pseudo = [row for row in written["annotations"] if "confidence" in row]
    assert [row for row in written["annotations"] if "confidence" not in row] == kept
    assert len(pseudo) > IMAGES and provenance["pseudo_labels"] == len(pseudo)
    assert {names[row["category_id"]] for row in pseudo} <= set(provenance["label"]["novel"])
    assert len({row["id"] for row in written["annotations"]}) == len(written["annotations"])
    for row in pseudo:
        _, _, width, height = row["bbox"]
        assert row["area"] == width * height > 0
        assert row["confidence"] == pytest.approx(0.5 * row["rpn_score"] + 0.5 * row["clip_score"])
        assert row["confidence"] > 0.8
    assert len(COCO(str(output / "labels.json")).anns) == len(written["annotations"])
    assert f"scored {IMAGES} images" in done.stdout and "2 ranks" in done.stdout
    assert re.search(rf"scored {IMAGES} of {IMAGES} images, [\d.]+ images/s", done.stderr)
    assert len(done.stderr.splitlines()) < 15, "one rank speaks, in lines"


@pytest.mark.parametrize("ranks", [None, 1, 4])
def test_any_number_of_ranks_writes_the_same_bytes(finished, words, tmp_path, ranks):
    run(command("score.py", *words, f"run.output={tmp_path}", ranks=ranks))
    assert files_of(tmp_path) == files_of(finished[0])


def test_each_image_is_in_exactly_one_part(finished):
    store = RegionStore(finished[0] / "store")
    rows = [image.image_id for path in store.part_paths() for image in store.read_part(path)]
    assert len(rows) == len(set(rows)) == IMAGES and len(store.part_paths()) >= IMAGES // 2


def test_a_killed_rank_costs_nothing_that_was_done(finished, words, tmp_path):
    arguments = command("score.py", *words, f"run.output={tmp_path}", ranks=2)
    job = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    parts = tmp_path / "store" / "parts"
    deadline = time.monotonic() + 300
    while not list(parts.glob("*.parquet")) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    ranks = [child for child in psutil.Process(job.pid).children() if "score.py" in " ".join(child.cmdline())]
    ranks[0].kill()
    assert job.wait(timeout=120) != 0
    kept = {path: path.read_bytes() for path in parts.glob("*.parquet")}
    assert 0 < len(kept) < len(list((finished[0] / "store" / "parts").iterdir())), "killed in the middle"
    stamps = {path: path.stat().st_mtime_ns for path in kept}

    done = run(command("score.py", *words, f"run.output={tmp_path}", ranks=4))
    assert files_of(tmp_path) == files_of(finished[0])
    assert stamps == {path: path.stat().st_mtime_ns for path in kept}, "what was there is not written again"
    assert f"scored {IMAGES} images" not in done.stdout


def test_a_complete_store_is_left_as_it_is(finished, words, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished[0], output)
    stamps = {path: path.stat().st_mtime_ns for path in (output / "store" / "parts").iterdir()}
    done = run(command("score.py", *words, f"run.output={output}"))
    assert "nothing to score" in done.stdout
    assert files_of(output) == files_of(finished[0])
    assert stamps == {path: path.stat().st_mtime_ns for path in (output / "store" / "parts").iterdir()}


def test_a_trial_run_grows_into_the_whole(finished, words, tmp_path):
    run(command("score.py", *words, "data.limit=5", "--no-label", f"run.output={tmp_path}"))
    assert not (tmp_path / "labels.json").exists()
    assert len(RegionStore(tmp_path / "store").part_of_images()) == 5
    done = run(command("score.py", *words, f"run.output={tmp_path}"))
    assert f"scored {IMAGES - 5} images" in done.stdout
    assert len(RegionStore(tmp_path / "store").part_of_images()) == IMAGES


def test_torchrun_tells_a_users_mistake_once_and_without_our_traceback(words, tmp_path):
    done = run(command("score.py", *words, f"run.output={tmp_path}", "data.image_root=nowhere", ranks=2), status=1)
    assert done.stderr.count("error: data.image_root: no folder at nowhere") == 1
    assert not OWN_FRAME.search(done.stderr) and not (tmp_path / "store").exists()


def test_a_mistake_that_every_rank_finds_is_told_once(words, tmp_path):
    weights = tmp_path / "clip.pt"
    weights.write_bytes(b"not a model")
    done = run(command("score.py", *words, f"run.output={tmp_path}/out", f"clip.model={weights}", ranks=2), status=1)
    assert done.stderr.count("error: ") == 1 and "is not a CLIP checkpoint" in done.stderr
    assert not OWN_FRAME.search(done.stderr)


def test_damaged_images_are_rows_with_reasons_and_can_be_mended(small_coco, tiny_models, tmp_path):
    dataset = small_coco(8)
    data = dataset.read()
    files = [dataset.root / "val2017" / image["file_name"] for image in data["images"]]
    whole = {path: path.read_bytes() for path in files}
    files[0].unlink()
    files[1].write_bytes(b"")
    files[2].write_bytes(whole[files[2]][: len(whole[files[2]]) // 2])
    files[3].write_text("<html>404</html>")
    data["images"][4]["width"] += 1
    dataset.write(data)
    output = tmp_path / "out"
    arguments = command(
        "score.py", *CONFIG, *tiny_models.overrides(), *SETTINGS, *dataset.overrides(), f"run.output={output}", ranks=2
    )
    done = run(arguments, status=1)
    assert "5 images could not be scored" in done.stderr
    reasons = {image_id: reason for image_id, _, reason in RegionStore(output / "store").failures()}
    expected = ["no such file", "empty file", "truncated file", "not an image", "the dataset says"]
    for image, reason in zip(data["images"], expected, strict=False):
        assert reason in reasons[image["id"]]
    written = json.loads((output / "labels.json").read_text())
    assert len(written["images"]) == 8 and written["info"]["plgen_ddp"]["images_failed"] == 5
    assert {row["image_id"] for row in written["annotations"] if "confidence" in row}.isdisjoint(reasons)

    assert run([*arguments, "run.max_failures=5"]).returncode == 0
    for path, content in whole.items():
        path.write_bytes(content)
    done = run([*arguments, "run.retry_failures=true"], status=1)
    assert [image_id for image_id, _, _ in RegionStore(output / "store").failures()] == [data["images"][4]["id"]]


def test_labelling_alone_needs_neither_models_nor_images(finished, words, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished[0], output)
    gone = ["clip.model=gone.pt", "detector.weights=gone.pth", "data.image_root=gone"]
    run(command("label.py", *words, *gone, f"run.output={output}", "label.score_threshold=0.7"))
    more = json.loads((output / "labels.json").read_text())
    less = json.loads((finished[0] / "labels.json").read_text())
    assert len(more["annotations"]) > len(less["annotations"])
    # The JSON of stage 1 is what the store remembers.
    run(command("label.py", *CONFIG, f"run.output={output}", "label.score_threshold=0.7", f"data.limit={IMAGES}"))
    assert json.loads((output / "labels.json").read_text()) == more
    run(command("score.py", *words, *gone, f"run.output={output}", "--label-only"))
    assert (output / "labels.json").read_bytes() == (finished[0] / "labels.json").read_bytes()


def test_another_json_with_fewer_categories_and_images_is_labelled(finished, words, coco_mini, tmp_path):
    split = json.loads(json.dumps(take_images(coco_mini, "val2017", IMAGES)))
    kept = json.loads((finished[0] / "labels.json").read_text())["info"]["plgen_ddp"]["label"]
    names = {*kept["novel"], *kept["base"]}
    split["categories"] = [
        category | {"text_emb": [0.5]} for category in split["categories"] if category["name"] in names
    ]
    split["images"] = split["images"][2:9]
    other = tmp_path / "ovd.json"
    other.write_text(json.dumps(split))
    run(
        command(
            "label.py",
            *words,
            f"run.output={finished[0]}",
            f"label.annotations={other}",
            f"label.output={tmp_path}/pl.json",
        )
    )
    written = json.loads((tmp_path / "pl.json").read_text())
    assert written["categories"] == split["categories"] and written["images"] == split["images"]
    whole = json.loads((finished[0] / "labels.json").read_text())
    ids = {image["id"] for image in split["images"]}

    def pseudo(content):
        return [{**row, "id": 0} for row in content["annotations"] if "confidence" in row and row["image_id"] in ids]

    assert pseudo(written) == pseudo(whole) != []


def test_an_incomplete_store_is_refused_unless_allowed(finished, words, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished[0], output)
    store = RegionStore(output / "store")
    path = store.part_paths()[0]
    lost = [image.image_id for image in store.read_part(path)]
    path.unlink()
    done = run(command("label.py", *words, f"run.output={output}"), status=2)
    assert f"{len(lost)} of {IMAGES} images are not in the store" in done.stderr and str(lost[0]) in done.stderr
    done = run(command("label.py", *words, f"run.output={output}", "label.allow_partial=true"))
    assert "warning" in done.stderr
    written = json.loads((output / "labels.json").read_text())
    assert written["info"]["plgen_ddp"]["images_not_scored"] == len(lost)
