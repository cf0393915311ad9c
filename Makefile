# make demo    sets up .venv, builds the kernels and turns a picture into a 3D asset   (INPUT=path takes another picture)
# make test    the same set-up, then the tests
# make wheel   the same set-up, then a wheel that installs without a compiler, into dist/   (WHEELS=path takes another folder)
# make docs    the same set-up, then API pages into site/
# make generator  the same set-up, then trains a network of eight sentences and makes an asset   (SENTENCE=words)
# make voxels  the same set-up, then the voxel diffusion study on a small scale
#
# Variables: PYTHON (3.10 or newer), TORCH (what pip is told to install; empty: whatever the environment has), INPUT, NAME, CONFIG,
# WORKERS (processes that share the tests and the processors).

PYTHON ?= python3
TORCH ?= torch==2.13.0
CONFIG ?= configs/micro.yaml
WHEELS ?= dist
WORKERS ?= 2
INPUT ?= test_data/robot_rgba.png
NAME ?= $(patsubst %_rgba,%,$(basename $(notdir $(INPUT))))

VENV := .venv
READY := $(VENV)/.ready
SOURCES := pyproject.toml setup.py $(wildcard csrc/*.h csrc/*.cpp csrc/cpu/* csrc/cuda/* csrc/course/*)
ROOMS := $(patsubst microdreamer/%/__init__.py,microdreamer.%,$(wildcard microdreamer/*/__init__.py))
# pip would compile every file of Python that it installs, which takes longer than all the rest of installing; Python compiles those that are used.
INSTALL := $(VENV)/bin/python -m pip -qq --disable-pip-version-check install --no-compile
BUILD_LOG := build/kernels.log

.PHONY: demo test wheel docs generator voxels setup clean

demo: $(READY)
	@$(VENV)/bin/python main.py --config "$(CONFIG)" input="$(INPUT)" save_path="$(NAME)"

test: $(READY)
	@$(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu"

wheel: $(READY)
	@$(VENV)/bin/python scripts/build_wheel.py "$(WHEELS)"

# Pages of all rooms, from their docstrings.
docs: $(READY)
	@$(VENV)/bin/python -m pdoc -o site microdreamer $(ROOMS) cam_utils gs_renderer mesh_renderer nerf_renderer \
		'!microdreamer.kernels._C' '!microdreamer.kernels._C_avx2' 2> /dev/null

SENTENCE ?= a red car
generator: $(READY)
	@$(VENV)/bin/python launch.py --config configs/multi-prompt/hyper_iNGP_micro_8.yaml --train --generate "$(SENTENCE)"

voxels: $(READY)
	@$(VENV)/bin/python -m microdreamer.voxel_diffusion.demo

setup: $(READY)

# The kernels are built against the PyTorch of this environment, so it and the build tools are there first and the build is not isolated.
# Compiling them and installing the rest share the processors.
$(READY): $(SOURCES)
	@command -v "$(PYTHON)" > /dev/null || { echo "$(PYTHON) was not found: install Python 3.10 or newer, or name it: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed and $(PYTHON) is $$("$(PYTHON)" --version 2>&1): name another one: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || \
		{ echo "$(PYTHON) lacks the venv module: install it (Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@test -x $(VENV)/bin/python || { echo "creating $(VENV)"; "$(PYTHON)" -m venv $(VENV); }
	@echo "installing PyTorch and the build tools"
	@$(INSTALL) "setuptools>=77" wheel ninja $(if $(TORCH),"$(TORCH)")
	@echo "building the kernels and installing the dependencies (minutes the first time)"
	@mkdir -p build
	@KERNELS=0 $(INSTALL) --no-build-isolation -e ".[dev]" & rest=$$!; \
		$(VENV)/bin/python setup.py -q build_ext --inplace > $(BUILD_LOG) 2>&1 || { cat $(BUILD_LOG); kill $$rest; exit 1; }; \
		wait $$rest
	@$(VENV)/bin/python -m microdreamer.kernels.extension || true
	@touch $@

clean:
	rm -rf $(VENV) build dist microdreamer/kernels/_C*.so *.egg-info
