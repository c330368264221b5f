# What one does with Kilonova's source. Each target says what it does: make help

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help install demo demo-cluster test crash bench check format lock clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## .venv with everything, system packages included (as root, on Debian)
	@tools/install

demo: ## boot a real virtual machine through the whole path, log in, show the trace, clean up
	@tools/install
	@tools/mkguest
	@.venv/bin/python demo/demo.py

demo-cluster: ## four machines on this one: build servers, kill -9 one of everything meanwhile, clean up
	@tools/install
	@tools/install-packages control
	@tools/mkguest
	@.venv/bin/python demo/cluster.py

test: install ## all tests; those that boot guests or change the network run as root only
	@tools/install-packages test
	@tools/mkguest
	@tools/test

crash: install ## kill services at every fault point, then at random; look at what is left
	@tools/install-packages test
	@.venv/bin/python -m crash

bench: install ## measure, and compare with the promised figures
	@tools/install-packages test
	@tools/mkguest
	@.venv/bin/python -m bench

check: install ## style, types, layers
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

format: install ## let ruff write the style
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

lock: install ## choose the newest versions of all dependencies
	@tools/lock --upgrade

clean: ## remove what was built here
	rm -rf build .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
