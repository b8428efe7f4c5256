# Every task of the project by name; `make help` lists them.
CARGO ?= cargo
CLUSTER := e2e/cluster/cluster.sh
EXPORTED = $(if $(EXPORT),--export $(abspath $(EXPORT)))
# Where `make plugin` installs.
PREFIX ?= $(HOME)/.local

.PHONY: help demo test check unit e2e e2e-list sim sweep model bench bench-quick detection plugin manifests cluster install images down
help: ## List the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: ## Start a cluster, install the operator, apply a store, kill its primary, show what became of the writes
	@$(CLUSTER) up
	@$(CLUSTER) images
	@$(CLUSTER) install
	@$(CLUSTER) e2e demo

test: ## Run every check and every test, the end-to-end ones included, and count them
	@./e2e/test.sh

check: ## Format, lints, documentation, licences and advisories
	@./e2e/test.sh check

unit: ## The tests that need no cluster
	@./e2e/test.sh unit

e2e: cluster install ## Run the scenarios on a real cluster, or some of them: SCENARIO=primary-killed,node-cut REPETITIONS=3 SEED=7 EXPORT=folder
	@$(CLUSTER) e2e scenarios $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(REPETITIONS),--repetitions $(REPETITIONS)) \
		$(if $(SEED),--seed $(SEED)) $(EXPORTED)

e2e-list: ## List the scenarios
	@$(CLUSTER) e2e scenarios --list

sim: ## Simulate groups and whole systems for MINUTES (10), or one KIND (dense, long-lived, system, long-system), or replay one SEED
	@$(CLUSTER) e2e sim $(if $(SEED),--seed $(SEED),--minutes $(or $(MINUTES),10)) $(if $(KIND),--kind $(KIND)) $(EXPORTED)

sweep: ## Have a simulated operator die after each single step: SCENARIO=part of a name
	@$(CLUSTER) e2e sweep $(if $(SCENARIO),--scenario "$(SCENARIO)")

model: ## Visit every state of the model of the view change, and show that it notices rules taken away: SCENARIO=part of a name
	@$(CLUSTER) e2e model $(if $(SCENARIO),--scenario "$(SCENARIO)")

bench: ## Measure against Valkey and etcd (minutes); report in target/bench
	@$(CLUSTER) e2e bench

bench-quick: ## The same in under a minute, for a first look
	@$(CLUSTER) e2e bench --quick

detection: ## Measure what the failure detector trades, and draw it; report in target/detection
	@$(CLUSTER) e2e detection

plugin: ## Build kubectl-quorate and install it with its completion into PREFIX/bin (~/.local/bin)
	$(CARGO) build --profile tools --locked -p quorate-operator --bin kubectl-quorate
	install -D -m 755 $(or $(CARGO_TARGET_DIR),target)/tools/kubectl-quorate $(DESTDIR)$(PREFIX)/bin/kubectl-quorate
	printf '#!/bin/sh\nexec kubectl-quorate __complete "$$@"\n' >$(DESTDIR)$(PREFIX)/bin/kubectl_complete-quorate
	chmod 755 $(DESTDIR)$(PREFIX)/bin/kubectl_complete-quorate
	@case ":$$PATH:" in *":$(PREFIX)/bin:"*) ;; *) echo "kubectl finds plugins on the PATH: add $(PREFIX)/bin to it" ;; esac

manifests: ## Write the resource definitions from the code
	$(CARGO) build -q --workspace --bin manifests && target/debug/manifests

cluster: ## Start a cluster, or use the one that runs
	@$(CLUSTER) up

images: cluster ## Build the images from this tree and load them into the cluster
	@$(CLUSTER) images

install: images ## Install the charts into the cluster, with the images of this tree
	@$(CLUSTER) install

down: ## Stop the cluster and leave nothing behind
	@$(CLUSTER) down
