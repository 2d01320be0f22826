# make train: set up, then train on the sample.  make test: set up, then every test.  make lint: the linter.
# The same steps by hand (Windows, notebooks) are in the README.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: train test lint setup clean

train: setup
	$(RUN) train_pipeline.py

test: setup
	$(RUN) -m pytest tests

lint: setup
	$(VENV)/bin/ruff check .

setup: $(VENV)/installed

$(VENV)/installed: requirements.txt requirements-unsloth.txt requirements-gpu.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else \
	  f"Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt
	$(RUN) -m pip install --quiet --no-deps -r requirements-unsloth.txt
	if command -v nvidia-smi >/dev/null; then $(RUN) -m pip install --quiet --no-deps -r requirements-gpu.txt; fi
	touch $@

clean:
	rm -rf $(VENV)
