# The way in. The work is done in tools/, with Python's standard library and nothing else.
#
# What is downloaded or built lands in a cache outside the clone: $WHAGONS_CACHE, default
# /var/cache/whagons_rte for root, else ~/.cache/whagons_rte.

# The server to build for and install into; `make run` uses a private one unless this is given.
PG_CONFIG ?= pg_config
# Versions to test on, for example PG=18 or PG="15 18". Default: all that are supported and prepared.
PG ?=

PYTHON ?= python3
export PYTHONDONTWRITEBYTECODE = 1

.PHONY: help run test lint unit install bench bench-report clean
.DEFAULT_GOAL := help

help:
	@echo "make run                      a throw-away server with an application, a dashboard, and tables to watch"
	@echo "make run PG_CONFIG=…          the same with your own Postgres"
	@echo "make install PG_CONFIG=…      build the release library and install it into that Postgres"
	@echo "make test [PG=\"15 16 18\"]     all checks and tests"
	@echo "make lint | make unit         only the checks, only the tests that need no Postgres"
	@echo "make bench                    the measurements (ARGS=\"…\" goes to the load generator, --help tells)"
	@echo "make bench-report             tables and plots of docs/BENCHMARKS.md, from bench/results"

run:
	@exec $(PYTHON) tools/demo.py $(if $(filter-out default file undefined,$(origin PG_CONFIG)),--pg-config "$(PG_CONFIG)")

test:
	@exec $(PYTHON) tools/check.py test $(PG)

lint:
	@exec $(PYTHON) tools/check.py lint $(PG)

unit:
	@exec $(PYTHON) tools/check.py unit

install:
	@exec $(PYTHON) tools/toolchain.py install "$(PG_CONFIG)"

bench:
	@exec $(PYTHON) tools/toolchain.py on $(or $(firstword $(PG)),18) cargo run --release -p rte-bench -- $(ARGS)

bench-report:
	@exec $(PYTHON) tools/toolchain.py cargo run --release -q -p rte-bench -- report $(ARGS)

clean:
	rm -rf target
