# Every target sets up what it needs by itself and is quick when run again. `make help` lists them.
.DEFAULT_GOAL := build
SHELL := /bin/bash
.PHONY: help build engine demo demo-real test test-oracle selftest bench check format tidy asan fuzz clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

build: ## build the program: build/release/src/weighbridge
	@tools/bootstrap.sh
	@tools/build.sh release weighbridge

engine: ## build the program with what `compare` needs: libtorch (installs torch, about 6 GB)
	@tools/bootstrap.sh
	@tools/engine.sh release

demo: build ## a random 1-billion-parameter Llama, its round trip at TP 2 x PP 2, and a found byte
	@tools/demo.sh

demo-real: build ## inspect, round trip and compare of a real model, SmolLM2-135M (needs torch: about 6 GB)
	@tools/demo_real.sh

test: ## every test that needs no torch
	@tools/bootstrap.sh
	@tools/test.sh

test-oracle: ## tests against transformers and, where possible, Megatron Bridge (needs torch)
	@tools/bootstrap.sh
	@tools/test_oracle.sh

selftest: build ## inject every known fault into a model of every family: is it caught and named?
	@build/release/src/weighbridge selftest --seeds 20; alone=$$?; \
	  build/release/src/weighbridge selftest --faults 2 --combinations 200; two=$$?; \
	  build/release/src/weighbridge selftest --faults 3 --combinations 200 && exit $$((alone | two))

bench: ## time and memory beside their limits, measured on this machine
	@tools/bootstrap.sh
	@tools/build.sh release weighbridge memcpy_baseline
	@python3 bench/roundtrip_bench.py; roundtrip=$$?; python3 bench/l0_bench.py; l0=$$?; \
	  python3 bench/diagnosis_bench.py; diagnosis=$$?; \
	  python3 bench/conversion_bench.py && exit $$((roundtrip | l0 | diagnosis))

check: ## layers, names, format of the code, scripts
	@tools/bootstrap.sh --dev
	@tools/check.sh

format: ## format the C++ files in place
	@tools/bootstrap.sh --dev
	@git ls-files '*.cc' '*.h' | xargs clang-format -i

tidy: ## clang-tidy over src/ (slow)
	@tools/bootstrap.sh --dev
	@tools/build.sh dev weighbridge
	@git ls-files 'src/*.cc' | xargs -P "$$(nproc)" -n 4 clang-tidy -p build/dev --quiet

asan: ## the core tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@tools/bootstrap.sh
	@tools/test_asan.sh

fuzz: ## run each fuzz target for a while: make fuzz SECONDS_EACH=60
	@tools/bootstrap.sh --dev
	@tools/fuzz.sh $(SECONDS_EACH)

clean: ## remove build/ (the cache with downloads and compiled objects stays)
	@rm -rf build
