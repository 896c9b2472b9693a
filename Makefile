# Few targets. `make env` comes first by itself; it does nothing when nothing changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DATASETS ?= ../shared/datasets

.PHONY: env demo test check lint fast witness foreign registries ray lock proto clean

env: $(VENV)/.complete

# A failed or interrupted install leaves no mark, so the next run repairs it.
$(VENV)/.complete: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "convzoo needs Python 3.11 or newer, found " + sys.version.split()[0] + " at " + sys.executable)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: env  ## The main job: train, publish, serve and ask, on real digits.
	@$(BIN)/convzoo demo

check: lint fast  ## The fast subset: format, lint, types, import rules, tests that need no framework.

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions .github/actions/*/action.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci deploy/gitlab/.gitlab-ci.yml
	$(BIN)/zizmor --offline --quiet .github

fast: env
	$(BIN)/python -m pytest -q -m "not tensorflow and not openvino and not jax and not ray and not e2e and not slow"

# Foreign clients live in an environment of their own: their pins clash with ours.
witness: build/witness/.complete

build/witness/.complete: tests/witnesses/requirements.lock
	$(PYTHON) -m venv build/witness
	build/witness/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# Servers and clients that are not ours: most of a gigabyte, so only who works on the client or on
# the protocols needs them here.
foreign: env build/mlserver/.complete build/triton/.complete build/kserve/.complete witness  ## Ask real MLServer and Triton; be asked by KServe.
	$(BIN)/python -m pytest -q tests/e2e/test_other_servers.py tests/e2e/test_witnesses.py

build/kserve/.complete: tests/witnesses/kserve.lock
	$(PYTHON) -m venv build/kserve
	build/kserve/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

build/mlserver/.complete: tests/witnesses/mlserver.lock
	$(PYTHON) -m venv build/mlserver
	build/mlserver/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# Of nvidia-pytriton only Triton itself is used, so its Python dependencies stay away. Triton loads
# the libpython of the system, so it is installed with the Python of the system.
SYSTEM_PYTHON ?= /usr/bin/python3
build/triton/.complete: tests/witnesses/triton.lock
	$(SYSTEM_PYTHON) -m venv build/triton
	build/triton/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	@touch $@

# An S3 server with its driver, MLflow, and Ray: gigabytes that nothing else needs. What is not there is
# taken from the first environment.
registries: env build/s3/.complete build/mlflow/.complete  ## Base paths by URL, and MLflow.
	build/s3/bin/python -m pytest -q tests/zoo/test_object_store.py tests/e2e/test_object_store.py
	build/mlflow/bin/python -m pytest -q tests/e2e/test_mlflow.py

ray: env build/ray/.complete  ## The deployment, on a real Ray Serve.
	build/ray/bin/python -m pytest -q tests/e2e/test_ray.py

PACKAGES = -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

build/%/.complete: tests/witnesses/%.lock
	$(PYTHON) -m venv build/$*
	build/$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@echo "import site; site.addsitedir('$$($(BIN)/python $(PACKAGES))')" \
	  > "$$(build/$*/bin/python $(PACKAGES))/first.pth"
	@touch $@

# Two processes test at the same time; threads of one would only wait for the other's.
test: env  ## Everything that must pass.
	@$(MAKE) --no-print-directory --jobs=2 lint fast witness
	TF_NUM_INTRAOP_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=20 -m "tensorflow or openvino or jax or e2e or slow"

UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate pyproject.toml

lock: env  ## Renew the locks; hashes and no hosts.
	$(BIN)/python -m pip install --quiet uv
	$(UV_COMPILE) --upgrade --extra serve --extra train --group dev --output-file requirements.lock
	$(UV_COMPILE) --upgrade --extra serve --group build --output-file requirements-serve.lock

proto: env  ## Compile serving/wire/protos into descriptors.binpb.
	$(PYTHON) -m venv build/proto
	build/proto/bin/python -m pip install --quiet 'grpcio-tools>=1.75,<1.76'
	build/proto/bin/python -m grpc_tools.protoc --proto_path=serving/wire/protos --include_imports \
	  --descriptor_set_out=serving/wire/descriptors.binpb $$(cd serving/wire/protos && ls *.proto)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
