"""Seeded models: the files load where a user's would, and a seed decides them."""

from pathlib import Path

import clip
import cv2
import pytest
import torch

from plgen_ddp.benchmark.seeded_models import generated_scene, write_tiny_clip, write_tiny_detector
from plgen_ddp.benchmark.seeded_models.__main__ import main


@pytest.mark.parametrize("kind", ["ViT", "RN"])
def test_clip_weights_have_the_types_of_the_public_files(tmp_path: Path, kind: str) -> None:
    path = write_tiny_clip(tmp_path, kind=kind)  # type: ignore[arg-type]
    state = torch.load(path, weights_only=True)
    assert state["visual.conv1.weight"].dtype == torch.float16
    assert state["text_projection"].dtype == torch.float16
    assert state["ln_final.bias"].dtype == torch.float32
    model, _ = clip.load(str(path), device="cpu")
    assert model.visual.input_resolution == 64
    assert model.text_projection.shape == (64, 32)


def test_unknown_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'MLP'.*'RN', 'ViT'"):
        write_tiny_clip(tmp_path, kind="MLP")  # type: ignore[arg-type]


def test_a_seed_decides_the_files_whatever_the_threads_and_leaves_the_callers_random_state(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), generated_scene(123, 200, 320))
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    written = {}
    try:
        for name, seed, count in (("first", 3, 1), ("again", 3, 2), ("other", 4, 1)):
            torch.set_num_threads(count)
            _, weights = write_tiny_detector(tmp_path / name, [photo], seed)
            written[name] = {
                **torch.load(weights, weights_only=True)["model"],
                **torch.load(write_tiny_clip(tmp_path / name, seed), weights_only=True),
            }
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(value, written["again"][name]) for name, value in written["first"].items())
    for name in ("backbone.fpn_output2.weight", "roi_heads.box_predictor.bbox_pred.weight", "ln_final.bias"):
        assert not torch.equal(written["first"][name], written["other"][name])


def test_command_line_writes_all_files_and_names_a_bad_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(tmp_path / "models")])
    written = {path.name for path in (tmp_path / "models").iterdir()}
    assert written == {"detector.yaml", "detector.pth", "clip.pt"}
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a picture")
    with pytest.raises(SystemExit) as exit_info:
        main([str(tmp_path / "models"), "--image", str(bad)])
    assert exit_info.value.code == 2
    assert f"{bad}: not an image" in capsys.readouterr().err
