# Every target first brings the environment up to date (scripts/setup_env.py; instant when nothing changed), each with
# what it needs: the demo without PyTorch, the tests with it and the reference implementation.
# PYTHON picks the interpreter (3.10 to 3.13; with a sourced ROS distribution, the one it was built for, up to 3.14).
# PEERS names programs of others to test or measure against, each in an environment of its own: PEERS=vllm make test.
SHELL := /bin/bash
PYTHON ?= python3
export PYTHON
ENV := source scripts/env.sh
# What cannot be installed says why, and whoever wanted it says so too.
INSTALL_PEERS = { [ -z "$(PEERS)" ] || python scripts/peers.py --missing $(PEERS) || true; } &&

.PHONY: help setup demo live test bench lock clean
help:
	@echo "make demo              simulated RGB-D camera -> node -> topics; results in demo_output/"
	@echo "make live              the live page, http://localhost:7860: camera, 3D scene, questions in words; ARGS=--help"
	@echo "make test              all tests, several files at a time; ARGS='-n 0 -k lifting -x' goes to pytest"
	@echo "make bench BENCH=name  runs benchmarks/name.py; ARGS=... goes to it"
	@echo "make setup             only the environment; 'source scripts/env.sh' enters it; EXTRAS=\"reference model\" adds PyTorch"
	@echo "make lock              requirements/ anew after pyproject.toml has changed; ARGS=--upgrade takes the newest of everything"
	@echo "make clean             removes everything that make produced"

setup:
	@$(ENV)

demo: export EXTRAS := arm
demo:
	@$(ENV) && exec python -m qwen3vl_ros.demo $(ARGS)

live: export EXTRAS := arm web
live:
	@$(ENV) && exec python -m qwen3vl_ros.web.live $(ARGS)

test: export EXTRAS := reference model test
test:
	@$(ENV) && $(INSTALL_PEERS) ruff check -q && ruff format -q --check && exec python -m pytest -n auto --dist loadfile --no-loadscope-reorder tests $(ARGS)

bench: export EXTRAS := reference model arm web bench
bench:
	@test -f "benchmarks/$(BENCH).py" || { echo "usage: make bench BENCH=name, with name one of:" \
	  $(notdir $(basename $(wildcard benchmarks/*.py))); exit 2; }
	@$(ENV) && $(INSTALL_PEERS) PYTHONPATH="scripts:model:$$PYTHONPATH" exec python benchmarks/$(BENCH).py $(ARGS)

# Exact versions and hashes, no address of an index; for each Python from the oldest supported on.
LOCK := uv pip compile pyproject.toml --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" --quiet $(ARGS)
lock:
	@[ -x .venv/bin/uv ] || { $(ENV); }
	@PATH=$(CURDIR)/.venv/bin:$$PATH; $(LOCK) --all-extras --group ros --group torch -o requirements/lock.txt && \
	  $(subst compile pyproject.toml,compile --group setup,$(LOCK)) -o requirements/uv.txt

clean:
	rm -rf .venv .ws .peers demo_output .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
