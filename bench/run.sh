#!/usr/bin/env bash
# Runs every benchmark, one after the other, and prints what docs/benchmarks.md reports.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "== machine: $(nproc) cores, $(free -g | awk '/^Mem/{print $2}') GiB, kernel $(uname -r)"
echo "== Berth itself"
go run ./bench/api
if [ "$(id -u)" = 0 ]; then
	echo "== clusters"
	go run ./bench/cluster
	echo "== deployments"
	go run ./bench/deploy
	echo "== front end"
	go run -C bench/frontend . -libexec "$PWD/bin/libexec" -traefik "$PWD/.build/traefik"
else
	echo "== clusters, front end: skipped, because they need root"
fi
