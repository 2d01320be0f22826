# make train: set up, then train on the sample.  make test: set up, then every test.  make lint: the linter.
# make demo: the page of demo.py, with the Gradio that it needs.
# make test-vllm: an environment for vLLM on a CPU beside it, and the tests of serving.
# The same steps by hand (Windows, notebooks) are in the README.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
VENV_VLLM := .venv-vllm
RUN_VLLM := $(VENV_VLLM)/bin/python

.PHONY: train test test-vllm demo lint setup clean

train: setup
	$(RUN) train_pipeline.py

test: setup
	$(RUN) -m pytest tests -n 2

# The sample model is exported where `make train` has made it; MOTION_MODEL=folder names another.
test-vllm: setup $(VENV_VLLM)/installed
	MOTION_PYTHON=$(abspath $(RUN)) $(RUN_VLLM) -m pytest tests/serving/engines tests/serving/test_grammar.py

# What vLLM brings for pictures and sound is built for CUDA and breaks its import on a CPU.
$(VENV_VLLM)/installed: requirements-vllm.txt
	test -x $(RUN_VLLM) || $(PYTHON) -m venv $(VENV_VLLM)
	$(RUN_VLLM) -m pip install --quiet -r requirements-vllm.txt
	$(RUN_VLLM) -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

demo: setup $(VENV)/demo_installed
	$(RUN) demo.py

$(VENV)/demo_installed: requirements-demo.txt | setup
	$(RUN) -m pip install --quiet -r requirements-demo.txt
	touch $@

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
	rm -rf $(VENV) $(VENV_VLLM)
