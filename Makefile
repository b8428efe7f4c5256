# Every task of the project by name; `make help` lists them.
CARGO ?= cargo

.PHONY: help test bench bench-quick
help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

test: ## Run every check and every test, and count them
	@./e2e/test.sh

bench: ## Measure against Valkey and etcd (minutes); report in target/bench
	$(CARGO) run --release -p quorate-e2e -- bench

bench-quick: ## The same in under a minute, for a first look
	$(CARGO) run --release -p quorate-e2e -- bench --quick
