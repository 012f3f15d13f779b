"""The whole job through the user's own commands: real torchrun, drawn scenes, real failures.

A start under torchrun takes seconds, so only what ranks can change has one; `call` runs the same command in here.
"""

import functools
import json
import os
import re
import signal
import subprocess
import time

import cv2
import numpy as np
import psutil
import pytest
from commands import REPOSITORY, call, command, environment, run
from finished_runs import files_of, part_times
from pycocotools.coco import COCO
from small_datasets import SCENES_JSON, take_scenes

from plgen_ddp.plurals import are
from plgen_ddp.store import RegionStore

# A line of a traceback through the package. torchrun prints one of its own when a rank ends with a status.
OWN_FRAME = re.compile(r"plgen_ddp/[\w/]+\.py")


def own_frame(printed):
    """Such a line, also where the checkout itself lies in a folder plgen_ddp, whose launch/ torchrun names."""
    return OWN_FRAME.search(printed.replace(str(REPOSITORY), ""))


@pytest.fixture
def job_of(two_rank_run, tmp_path):
    """Words that score a small dataset in this process and label nothing."""

    def words(dataset):
        output = [f"run.output={tmp_path}/out", "run.workers=0", "--no-label"]
        return [*two_rank_run.words, *dataset.words(), *output]

    return words


def pseudo_labels(path):
    return [row for row in json.loads(path.read_text())["annotations"] if "confidence" in row]


def last_line(printed):
    """The last line of a screen that is not a rule of torchrun's report."""
    return [line for line in printed.splitlines() if line.strip("=- ")][-1]


def test_two_ranks_label_every_image(two_rank_run):
    output, images = two_rank_run.output, two_rank_run.images
    written = json.loads((output / "labels.json").read_text())
    source = take_scenes(images)
    assert sorted(image["id"] for image in written["images"]) == [image["id"] for image in source["images"]]
    names = {category["id"]: category["name"] for category in source["categories"]}
    provenance = written["info"]["plgen_ddp"]
    kept = [row for row in source["annotations"] if names[row["category_id"]] in provenance["label"]["base"]]
    pseudo = [row for row in written["annotations"] if "confidence" in row]
    assert [row for row in written["annotations"] if "confidence" not in row] == kept != []
    assert len(pseudo) > images and provenance["pseudo_labels"] == len(pseudo)
    assert {names[row["category_id"]] for row in pseudo} <= set(provenance["label"]["novel"])
    assert len({row["id"] for row in written["annotations"]}) == len(written["annotations"])
    for row in pseudo:
        _, _, width, height = row["bbox"]
        assert row["area"] == width * height > 0
        assert row["confidence"] == pytest.approx(0.5 * row["rpn_score"] + 0.5 * row["clip_score"])
        assert row["confidence"] > 0.8
    assert len(COCO(str(output / "labels.json")).anns) == len(written["annotations"])


def test_one_rank_speaks_in_lines(two_rank_run):
    images = two_rank_run.images
    assert f"scored {images} images" in two_rank_run.stdout and "2 ranks" in two_rank_run.stdout
    assert re.search(rf"scored {images} of {images} images, [\d.]+ images/s", two_rank_run.stderr)
    assert len(two_rank_run.stderr.splitlines()) < 15


def test_each_image_is_in_exactly_one_part(two_rank_run):
    store = two_rank_run.store
    rows = [image.image_id for path in store.part_paths() for image in store.read_part(path)]
    assert sorted(rows) == [image["id"] for image in take_scenes(two_rank_run.images)["images"]]
    assert len(store.part_paths()) >= two_rank_run.images // 2, "every rank of four had several"


def test_a_process_alone_writes_the_same_bytes(two_rank_run, tmp_path, capfd):
    call("score", *two_rank_run.words, f"run.output={tmp_path}")
    assert "on 1 rank;" in capfd.readouterr().out
    assert files_of(tmp_path) == files_of(two_rank_run.output)


def test_a_trial_run_grows_into_the_whole_with_one_rank(two_rank_run, tmp_path, capfd):
    """One rank under torchrun writes the rest of the same bytes."""
    images = two_rank_run.images
    call("score", *two_rank_run.words, "data.limit=5", "--no-label", f"run.output={tmp_path}")
    assert "scored 5 images" in capfd.readouterr().out
    assert not (tmp_path / "labels.json").exists()
    assert len(RegionStore(tmp_path / "store").part_of_images()) == 5
    done = run(command("score.py", *two_rank_run.words, f"run.output={tmp_path}", ranks=1))
    assert f"scored {images - 5} images" in done.stdout
    assert f"5 of {images} images are in the store already; scoring the others" in done.stderr
    assert files_of(tmp_path) == files_of(two_rank_run.output)


def test_a_killed_rank_costs_nothing_that_was_done_and_four_ranks_write_the_rest(two_rank_run, tmp_path):
    """The rest, and most of the whole, are the bytes that two ranks wrote."""
    words, images = two_rank_run.words, two_rank_run.images
    arguments = command("score.py", *words, f"run.output={tmp_path}", ranks=2)
    job = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    parts = tmp_path / "store" / "parts"
    deadline = time.monotonic() + 300
    while not list(parts.glob("*.parquet")) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    ranks = [child for child in psutil.Process(job.pid).children() if "score.py" in " ".join(child.cmdline())]
    ranks[0].kill()
    assert job.wait(timeout=120) != 0
    before = part_times(tmp_path)
    assert 0 < len(before) < images, "killed in the middle"

    done = run(command("score.py", *words, f"run.output={tmp_path}", ranks=4))
    assert files_of(tmp_path) == files_of(two_rank_run.output)
    assert before.items() <= part_times(tmp_path).items(), "what was there is not written again"
    assert f"scored {images - len(before)} images" in done.stdout and "on 4 ranks;" in done.stdout


def test_every_rank_logs_its_own_units(two_rank_run):
    logs = [(two_rank_run.output / "log" / f"rank-{rank}.txt").read_text() for rank in range(2)]
    counts = [[int(count) for count in re.findall(r"scored a unit of (\d+) images", log)] for log in logs]
    assert sum(map(sum, counts)) == two_rank_run.images
    assert "2 ranks; peak memory" in logs[0] and "peak memory" not in logs[1]


def test_an_interrupted_run_says_that_the_same_command_goes_on(two_rank_run, tmp_path):
    arguments = command("score.py", *two_rank_run.words, f"run.output={tmp_path}")
    # A shell's background job ignores Ctrl-C, and so would the job that the tests of such a shell start.
    listens = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    job = subprocess.Popen(arguments, **streams, env=environment(), preexec_fn=listens)
    deadline = time.monotonic() + 300
    while not part_times(tmp_path) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    job.send_signal(signal.SIGINT)
    _, printed = job.communicate(timeout=120)
    assert job.returncode == 130
    assert printed.splitlines()[-1] == "interrupted; the same command goes on from what is stored"
    assert "stopped by KeyboardInterrupt" in (tmp_path / "log" / "rank-0.txt").read_text()


def test_a_complete_store_is_left_as_it_is(two_rank_run, tmp_path, capfd):
    output = two_rank_run.copy(tmp_path / "out")
    before = part_times(output)
    call("score", *two_rank_run.words, f"run.output={output}")
    assert f"nothing to score: all {two_rank_run.images} images are in the store" in capfd.readouterr().out
    assert files_of(output) == files_of(two_rank_run.output)
    assert part_times(output) == before


def test_torchrun_prints_a_users_mistake_once_and_without_our_traceback(two_rank_run, tmp_path):
    words = [*two_rank_run.words, f"run.output={tmp_path}", "data.image_root=nowhere"]
    done = run(command("score.py", *words, ranks=2), status=1)
    assert done.stderr.count("error: data.image_root: no folder at nowhere") == 1
    assert last_line(done.stderr).endswith("error: data.image_root: no folder at nowhere")
    assert not own_frame(done.stderr) and not (tmp_path / "store").exists()
    for rank in range(2):
        assert "error: data.image_root: no folder at nowhere" in (tmp_path / "log" / f"rank-{rank}.txt").read_text()


def test_a_mistake_that_every_rank_finds_is_printed_once(two_rank_run, tmp_path):
    weights = tmp_path / "clip.pt"
    weights.write_bytes(b"not a model")
    words = [*two_rank_run.words, f"run.output={tmp_path}/out", f"clip.model={weights}"]
    done = run(command("score.py", *words, ranks=2), status=1)
    assert done.stderr.count("error: ") == 1 and "nor a pickle of arrays" in done.stderr
    assert not own_frame(done.stderr)


def test_damaged_images_are_rows_with_reasons_and_can_be_mended(small_dataset, two_rank_run, tmp_path, capfd):
    dataset = small_dataset(8)
    data, files = dataset.read(), dataset.files()
    whole = {path: path.read_bytes() for path in files}
    files[0].unlink()
    files[1].write_bytes(b"")
    files[2].write_bytes(whole[files[2]][: len(whole[files[2]]) // 2])
    files[3].write_text("<html>404</html>")
    data["images"][4]["width"] += 1
    dataset.write(data)
    output = tmp_path / "out"
    words = [*two_rank_run.words, *dataset.words(), f"run.output={output}", "label.score_threshold=0.5"]
    done = run(command("score.py", *words, ranks=2), status=1)
    assert "5 images could not be scored (run.max_failures=0)" in done.stderr
    assert "error: 5 images could not be scored" in last_line(done.stderr)
    reasons = {image_id: reason for image_id, _, reason in RegionStore(output / "store").failures()}
    expected = ["no such file", "empty file", "truncated file", "not an image", "the dataset says"]
    for image, reason in zip(data["images"], expected, strict=False):
        assert reason in reasons[image["id"]]
    written = json.loads((output / "labels.json").read_text())
    assert len(written["images"]) == 8 and written["info"]["plgen_ddp"]["images_failed"] == 5
    labelled = {row["image_id"] for row in written["annotations"] if "confidence" in row}
    assert labelled == {image["id"] for image in data["images"]} - reasons.keys()

    call("score", *words, "run.max_failures=5")
    for path, content in whole.items():
        path.write_bytes(content)
    capfd.readouterr()
    call("score", *words, "run.retry_failures=true", status=1)
    assert "scored 5 images" in capfd.readouterr().out
    assert [image_id for image_id, _, _ in RegionStore(output / "store").failures()] == [data["images"][4]["id"]]


def test_labelling_alone_needs_neither_models_nor_images(two_rank_run, tmp_path):
    output = two_rank_run.copy(tmp_path / "out")
    words = [*two_rank_run.words, "clip.model=gone.pt", "detector.weights=gone.pth", "data.image_root=gone"]
    call("label", *words, f"run.output={output}", "label.score_threshold=0.7")
    more = (output / "labels.json").read_bytes()
    assert len(pseudo_labels(output / "labels.json")) > len(pseudo_labels(two_rank_run.output / "labels.json"))
    # The JSON of stage 1 is what the store remembers.
    rest = [word for word in two_rank_run.words if not word.startswith(("data.annotations", "data.image_root"))]
    call("label", *rest, f"run.output={output}", "label.score_threshold=0.7")
    assert (output / "labels.json").read_bytes() == more
    call("score", *words, f"run.output={output}", "--label-only")
    assert (output / "labels.json").read_bytes() == (two_rank_run.output / "labels.json").read_bytes()


def test_another_json_with_fewer_categories_and_images_is_labelled(two_rank_run, tmp_path):
    split = take_scenes(two_rank_run.images)
    gone = {"flag", "moon"}  # of the base names
    split["categories"] = [
        category | {"text_emb": [0.5]} for category in split["categories"] if category["name"] not in gone
    ]
    ids = {category["id"] for category in split["categories"]}
    split["annotations"] = [row for row in split["annotations"] if row["category_id"] in ids]
    split["images"] = split["images"][2:9]
    other = tmp_path / "ovd.json"
    other.write_text(json.dumps(split))
    novel = json.loads((two_rank_run.output / "labels.json").read_text())["info"]["plgen_ddp"]["label"]["novel"]
    call(
        "label",
        *two_rank_run.words,
        f"run.output={two_rank_run.output}",
        f"label.annotations={other}",
        f"label.output={tmp_path}/pl.json",
        f"label.vocabulary=[{', '.join(novel)}]",
    )
    written = json.loads((tmp_path / "pl.json").read_text())
    assert written["categories"] == split["categories"] and written["images"] == split["images"]
    images = {image["id"] for image in split["images"]}

    def without_ids(path):
        return [{**row, "id": 0} for row in pseudo_labels(path) if row["image_id"] in images]

    assert without_ids(tmp_path / "pl.json") == without_ids(two_rank_run.output / "labels.json") != []


def test_an_incomplete_store_is_refused_unless_allowed(two_rank_run, tmp_path, capfd):
    output = two_rank_run.copy(tmp_path / "out")
    store = RegionStore(output / "store")
    path = store.part_paths()[0]
    lost = [image.image_id for image in store.read_part(path)]
    path.unlink()
    words = [*two_rank_run.words, f"run.output={output}"]
    with pytest.raises(SystemExit) as stopped:
        call("label", *words)
    assert stopped.value.code == 2
    message = f"{len(lost)} of {two_rank_run.images} images {are(len(lost))} not in the store"
    assert re.search(rf"^error: {message} .*(, the first are |\(image ){lost[0]}\b", capfd.readouterr().err)
    call("label", *words, "label.allow_partial=true")
    assert f"warning: {message}" in capfd.readouterr().err
    written = json.loads((output / "labels.json").read_text())
    assert written["info"]["plgen_ddp"]["images_not_scored"] == len(lost)


def test_dropping_boxes_of_low_objectness_leaves_the_labels_as_they_are(two_rank_run, tmp_path):
    """With VL-PLM's weight 0.5 and threshold 0.8 no box of an objectness under 0.6 can be a label."""
    images = 6
    dropping = [
        *two_rank_run.words,
        f"data.limit={images}",
        "detector.min_objectness=0.6",
        f"run.output={tmp_path}/out",
    ]
    call("score", *dropping)
    limited = [f"data.limit={images}", f"label.output={tmp_path}/whole.json"]
    call("label", *two_rank_run.words, *limited, f"run.output={two_rank_run.output}")
    whole, less = (json.loads(path.read_text()) for path in (tmp_path / "whole.json", tmp_path / "out" / "labels.json"))
    made, kept = ([row for row in data["annotations"] if "confidence" in row] for data in (whole, less))
    for before, after in zip(made, kept, strict=True):
        # Other neighbours in a CLIP batch move an embedding's last bits, and nothing else.
        moved = {key: pytest.approx(before[key], abs=1e-5) for key in ("confidence", "clip_score")}
        assert after == {**before, **moved}
    assert len(made) > 5
    stores = [two_rank_run.store, RegionStore(tmp_path / "out" / "store")]
    everything, rest = (
        {row.image_id: row for path in one.part_paths() for row in one.read_part(path)} for one in stores
    )
    assert len(rest) == images
    for image_id, after in rest.items():
        above = everything[image_id].objectness >= 0.6
        assert (after.objectness >= 0.6).all() and not above.all()
        np.testing.assert_array_equal(after.boxes_xyxy, everything[image_id].boxes_xyxy[above])


def test_images_of_one_line_and_of_five_pixels_are_scored(small_dataset, job_of, tmp_path):
    dataset = small_dataset(1)
    data = dataset.read()
    for image_id, (height, width) in enumerate([(1, 3000), (3000, 1), (5, 5), (1, 1)], start=100):
        data["images"].append({"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width})
        pixels = np.random.default_rng(image_id).integers(0, 255, (height, width, 3), np.uint8)
        cv2.imwrite(str(dataset.root / "demo" / f"{image_id}.png"), pixels)
    dataset.write(data)
    call("score", *job_of(dataset))
    assert len(RegionStore(tmp_path / "out" / "store").part_of_images()) == 5


def test_a_file_name_that_no_disk_takes_is_a_failure(small_dataset, job_of, tmp_path):
    dataset = small_dataset(2)
    data = dataset.read()
    data["images"][0]["file_name"] = "x" * 300 + ".jpg"
    dataset.write(data)
    call("score", *job_of(dataset), status=1)
    assert [reason for _, _, reason in RegionStore(tmp_path / "out" / "store").failures()] == ["File name too long"]


def test_failures_of_other_images_do_not_count(small_dataset, job_of):
    dataset = small_dataset(3)
    dataset.files()[2].write_bytes(b"")
    call("score", *job_of(dataset), status=1)
    call("score", *job_of(dataset), "data.limit=2")


def test_a_json_without_annotations_is_no_mistake(two_rank_run, tmp_path):
    output = two_rank_run.copy(tmp_path / "out")
    data = json.loads(SCENES_JSON.read_text())
    del data["annotations"]
    path = tmp_path / "images_demo.json"
    path.write_text(json.dumps(data))
    call("score", *two_rank_run.words, f"run.output={output}", f"data.annotations={path}")
    rows = json.loads((output / "labels.json").read_text())["annotations"]
    assert rows and all("confidence" in row for row in rows)


def test_what_nobody_reads_costs_no_labels(two_rank_run, tmp_path):
    """The reader of stdout and stderr has gone, as `head` does."""
    output = two_rank_run.copy(tmp_path / "out")
    labels = output / "labels.json"
    expected = labels.read_bytes()
    labels.unlink()
    RegionStore(output / "store").part_paths()[0].unlink()
    reader, writer = os.pipe()
    os.close(reader)
    arguments = command("score.py", *two_rank_run.words, f"run.output={output}")
    done = subprocess.run(arguments, stdout=writer, stderr=writer, timeout=300, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert labels.read_bytes() == expected


def test_real_photos_are_scored_and_labelled(coco_mini, tiny_models, tmp_path):
    """An extra where photos lie beside the checkout: COCO's layout, names and split, photos of many shapes."""
    annotations = coco_mini / "annotations" / "instances_val2017.json"
    call(
        "score",
        *("--config", REPOSITORY / "configs" / "coco_vlplm.yaml"),
        *tiny_models.words(),
        *(f"data.annotations={annotations}", f"data.image_root={coco_mini}"),
        *("data.limit=14", "run.workers=1", f"run.output={tmp_path}"),
    )
    written = json.loads((tmp_path / "labels.json").read_text())
    assert len(written["images"]) == 14 and len(pseudo_labels(tmp_path / "labels.json")) > 14
    assert written["info"]["plgen_ddp"]["images_failed"] == 0
