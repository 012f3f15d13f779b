"""The wheel is all that an installation needs: every module, the configs and the entry points, without the checkout."""

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands import REPOSITORY, environment

import plgen_ddp
from plgen_ddp.config import load_config

SOURCES = ("plgen_ddp", "launch", "configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's content in a folder outside the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: setuptools leaves its own files beside what it builds
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, source / name)
    words = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *words], check=True, env=environment())
    (wheel,) = folder.glob("plgen_ddp-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def files(folder, *suffixes):
    paths = (path for path in folder.rglob("*") if path.suffix in suffixes)
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def python(*words, installed, folder):
    """What `python -m WORDS` prints in a folder that holds no checkout."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment() | {"PYTHONPATH": str(installed)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_and_data_file_is_in_the_wheel(installed):
    kinds = (".py", ".typed", ".pt", ".pth", ".jpg", ".json", ".html", ".css", ".js", ".yaml", ".txt")
    expected = {
        folder / path: content
        for folder, source in ((Path(), "plgen_ddp"), (Path("launch"), "launch"), (Path("configs"), "configs"))
        for path, content in files(REPOSITORY / source, *kinds).items()
    }
    wheel = files(installed / "plgen_ddp", *kinds)
    assert wheel.keys() == expected.keys()
    assert wheel == expected


def test_plgen_is_the_one_command_and_has_every_script_of_launch_as_a_verb(installed, tmp_path):
    (listed,) = installed.glob("*.dist-info/entry_points.txt")
    entries = configparser.ConfigParser()
    entries.read(listed)
    assert dict(entries["console_scripts"]) == {"plgen": "plgen_ddp.launch.__main__:main"}
    done = python("plgen_ddp.launch", "--help", installed=installed, folder=tmp_path)
    verbs = {line.split()[0] for line in done.partition("verbs:\n")[2].splitlines()}
    scripts = {path.stem for path in (REPOSITORY / "launch").glob("*.py") if not path.stem.startswith("_")}
    assert verbs == {name.replace("_", "-") for name in scripts}
    assert python("plgen_ddp.launch", "benchmark", "--help", installed=installed, folder=tmp_path).startswith("usage: ")


def test_configs_are_found_by_name_without_the_checkout(installed, tmp_path):
    words = ["--config", "coco_marvelovd", "label.templates=vild_63", "--print-config"]
    path = tmp_path / "printed.yaml"
    path.write_text(python("plgen_ddp.launch.label", *words, installed=installed, folder=tmp_path))
    config = load_config(path)
    configs = installed / "plgen_ddp" / "configs"
    assert config.label.templates == str(configs / "templates" / "vild_63.txt")
    assert config.label.vocabulary == str(configs / "vocabularies" / "coco_ovd.yaml")
    assert config.detector.config == str(configs / "detectors" / "mask_rcnn_R_50_FPN_1x_base_num1.yaml")


def test_the_demos_data_and_weights_are_the_packages_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load_config("demo")
    here = Path(plgen_ddp.__file__).parent / "demo"
    assert config.data.annotations == str(here / "data" / "annotations" / "instances_demo.json")
    for path in (config.data.image_root, config.detector.weights, config.clip.model):
        assert Path(path).exists() and Path(path).is_relative_to(here)
