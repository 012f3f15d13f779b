# make demo      the whole job on a small case, after setting up what it needs
# make test      the tests of the CPU, on drawn scenes; SLOW=1 adds the full-size models; real photos are an extra
# make test-gpu  the tests that need an NVIDIA GPU
# make lint      formatting, lint, types
# make setup     only the set-up: PYTHON=python3.12, EXTRAS=dev,train,open-clip DETECTRON2=git+https://github.com/facebookresearch/detectron2

PYTHON ?= python3
EXTRAS ?= dev,train,open-clip
VENV ?= .venv
BIN := $(VENV)/bin
RANKS ?= 2
SLOW ?=

# The official Python modules of detectron2, which PyPI has under no name of its own: this wheel holds them. Its compiled
# part, for Python 3.10 alone, stays unused: Mask R-CNN takes RoIAlign and NMS from torchvision. The hash pins the content.
DETECTRON2 ?=
DETECTRON2_WHEEL := sal-detectron2==0.7.2 --hash=sha256:491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561

.PHONY: setup demo test test-gpu lint format clean

# Another choice of Python, extras or detectron2 is another stamp.
READY := $(VENV)/ready-$(shell echo '$(PYTHON) $(EXTRAS) $(DETECTRON2)' | cksum | cut -d' ' -f1)

setup: $(READY)

$(READY): setup.cfg pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "plgen_ddp needs Python 3.10 to 3.13; make setup PYTHON=python3.12 chooses another" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'setuptools>=77,<82'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
ifeq ($(DETECTRON2),)
	echo '$(DETECTRON2_WHEEL)' > $(VENV)/detectron2.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.10 \
		--implementation cp --upgrade --target "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		--requirement $(VENV)/detectron2.txt
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation '$(DETECTRON2)'
endif
	touch $@

demo: setup
	$(BIN)/python -m plgen_ddp.demo --ranks $(RANKS)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile \
		--no-loadscope-reorder $(if $(SLOW),,-m "not slow")

test-gpu: setup
	PLGEN_TEST_GPU=1 $(BIN)/python -m pytest -m cuda

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) out
