# `make demo` and `make test` do all the set-up; the second run installs nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types install clean

demo: $(VENV)/.installed
	$(BIN)/affect demo --output-dir demo_output

test: $(VENV)/.installed
	$(BIN)/python -m pytest tests

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The repository's root is the package: mypy finds it by its name in a folder beside.
types: $(VENV)/.installed
	mkdir -p .types && ln -sfn .. .types/comfyui_affect
	cd .types && ../$(BIN)/mypy --config-file ../pyproject.toml -p comfyui_affect

install: $(VENV)/.installed

# torch and torchvision must be builds of one another: they are resolved together, and the import is tried.
# An environment that held another torch before is mended by taking both anew.
$(VENV)/.installed: pyproject.toml requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python -m uv pip install --quiet --compile-bytecode --python $(BIN)/python -e ".[headless,training,fast,photo,dev]"
	$(BIN)/python -c "import torchvision" 2>/dev/null || \
		$(BIN)/python -m uv pip install --quiet --compile-bytecode --python $(BIN)/python --reinstall torch torchvision
	touch $@

clean:
	rm -rf $(VENV) demo_output
