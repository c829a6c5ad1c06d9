# `make help` lists the targets. Each sets up .venv (pinned by constraints.txt) when it has to.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
MORE := .venv/.ready-more

.PHONY: help demo test lab docs lessons tables bench faults setup clean-venv
.DEFAULT_GOAL := demo

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## the Python environment alone

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.version_info >= (3, 10) or sys.exit("mvnb needs Python 3.10 or newer; this is " + sys.version.split()[0] + ". Say which with: make PYTHON=python3.12 ...")' || { echo "Python 3.10 or newer with its venv module is needed (on Debian: apt-get install python3-venv)"; exit 1; }
	@echo "Setting up .venv with the versions of constraints.txt (6 GB, mostly PyTorch; a few minutes)"
	@{ $(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv; } && $(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar on -c constraints.txt -e '.[dev]' > .venv/install.log 2>&1 || { tail -n 20 .venv/install.log; echo "The installation failed; the whole log is .venv/install.log"; exit 1; }
	@touch $@

$(MORE): $(READY)
	@echo "Adding what the batch of tables, the site, the browser test, the comparison with Hugging Face and Parquet need"
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar on -c constraints.txt -e '.[dev,batch,docs,browser,hub,parquet]' > .venv/install-more.log 2>&1 || { tail -n 20 .venv/install-more.log; echo "The installation failed; the whole log is .venv/install-more.log"; exit 1; }
	@touch $@

demo: $(READY)  ## a paper's table on the puppets, three seeds, beside the committed numbers
	@$(BIN)/mvnb demo

test: $(MORE)  ## the notebooks' lessons, then pytest (which also checks that notebooks and library agree)
	@OMP_NUM_THREADS=1 $(BIN)/nbdev-test --n-workers 2 --do-print --skip-folder-re '^(tables|figures|explore|[_.].*)$$'
	@$(BIN)/python -m pytest -n 2 --dist loadfile

lessons: $(MORE)  ## the lessons executed anew, for what they show on the site (half an hour)
	@OMP_NUM_THREADS=1 $(BIN)/python docs/lessons.py

tables: $(MORE)  ## all tables: their runs, then their notebooks; PROFILE=smoke|demo|paper|released ONLY='fame*' CORES=n SEEDS=n DATA=name ON=slurm|kubernetes PUBLISH=1
	@$(BIN)/mvnb batch --profile '$(or $(PROFILE),demo)' $(if $(ONLY),--only '$(ONLY)') $(if $(CORES),--cores '$(CORES)') $(if $(SEEDS),--seeds '$(SEEDS)') $(if $(DATA),--data '$(DATA)') $(if $(ON),--on '$(ON)') $(if $(PUBLISH),--publish)

lab: $(READY)  ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab --notebook-dir=nbs $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.tornado_settings='{"websocket_max_message_size": 1073741824}'  # uploads in the explorer

bench: $(READY)  ## speed, as ratios measured in one run
	@$(BIN)/python -m bench

faults: $(READY)  ## damaged files, hostile lists, kills, full disks: a quarter of an hour, counted in docs/reliability.md
	@$(BIN)/python -m faults

docs: $(MORE)  ## the site, offline, into docs/_build/html
	@$(BIN)/python docs/build.py

clean-venv:  ## remove .venv
	@rm -rf .venv
