# Four commands for people: demo, test, lint, bench. The environment is made once, in $(VENV).
#   make demo JOBS=4 PYTHON=python3.12 PIP_FLAGS="--quiet"
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
INPUTS ?= 1000000
PIP_FLAGS ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXTRAS := train,report,agents,play,data,fast,dev
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST = $(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
ELSEWHERE := pages or slow or browser or kills

.DEFAULT_GOAL := help
.PHONY: help demo test test-heavy test-pages test-slow test-kills test-browser test-lowest test-newest with-versions fuzz lint bench opengl

help:
	@echo "make demo       dream beside the truth, as a page: runs/demo/index.html"
	@echo "make test       the tests (test-heavy: whole runs, some ten seconds each; test-slow: those that take minutes;"
	@echo "                test-pages: what the README and the guides tell to run;"
	@echo "                test-kills: killed 200 times; test-browser: the page, in Chromium; test-lowest, test-newest: with the"
	@echo "                lowest versions that pyproject.toml allows, and with today's newest, each in an environment of its own)"
	@echo "make fuzz       damaged and hostile files: INPUTS=1000000 mutations of every kind of file that is read, guided by coverage (Atheris)"
	@echo "make lint       ruff and pyright"
	@echo "make bench      speed of everything on this machine, into runs/bench"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "worldsim needs Python 3.11 or later, not " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "Install Python's venv module: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

opengl: $(INSTALLED)
	@test "$$(uname)" != Linux || $(BIN)/python -c 'import ctypes; ctypes.CDLL("libEGL.so.1"); ctypes.CDLL("libGL.so.1")' 2>/dev/null \
		|| { echo "MuJoCo needs OpenGL to draw: apt-get install libegl1 libgl1 (as root; other systems: Mesa's EGL and GL)"; exit 1; }

demo: $(INSTALLED) opengl
	$(BIN)/worldsim demo

test: $(INSTALLED) opengl
	$(PYTEST) -m "not (heavy or $(ELSEWHERE))" --durations 40 --durations-min 4

test-heavy: $(INSTALLED) opengl
	$(PYTEST) -m heavy --durations 0 --durations-min 4

test-pages: $(INSTALLED) opengl
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) -m pages --durations 0 --durations-min 1

test-slow: $(INSTALLED) opengl
	$(PYTEST) -m slow

test-kills: $(INSTALLED) opengl
	$(ONE_THREAD) $(BIN)/python -m pytest -m kills -rP

test-browser: $(INSTALLED) opengl
	@command -v chromium >/dev/null || { echo "The page is tested in Chromium: apt-get install chromium"; exit 1; }
	$(ONE_THREAD) $(BIN)/python -m pytest -m browser

test-lowest: # torch of that time comes with its GPU libraries: 7 GB
	$(MAKE) with-versions VENV=.venv-lowest RESOLUTION=lowest-direct

test-newest:
	$(MAKE) with-versions VENV=.venv-newest RESOLUTION=highest

with-versions:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) uv
	$(BIN)/uv pip install --python $(BIN)/python --upgrade --resolution $(RESOLUTION) -e '.[$(EXTRAS)]'
	$(PYTEST) -m "not ($(ELSEWHERE))" -W default

fuzz: $(INSTALLED) # Atheris has wheels for Linux and CPython only
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt atheris
	$(ONE_THREAD) WORLDSIM_FUZZ=$(INPUTS) $(BIN)/python -m pytest -n $(JOBS) -m slow -rP tests/test_fuzz.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(INSTALLED) opengl
	$(BIN)/worldsim bench --out runs/bench
