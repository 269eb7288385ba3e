#!/usr/bin/env bash
# Runs every suite and ends with one count over all of them. Each suite writes a JUnit file
# into .build/results; a suite that could not even start counts as a failure.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
results=$root/.build/results
rm -rf "$results"
mkdir -p "$results/conformance"
export BERTH_CONFORMANCE=$results/conformance BERTH_RESULTS=$results

phase() { printf '\n== %s (%ds)\n' "$1" "$SECONDS"; }
broken=()
suite() { # name, command…: a command that fails is noted; its JUnit file tells the rest
	local name=$1
	shift
	phase "$name"
	"$@" || { [ -s "$results/$name.xml" ] || broken+=("$name"); }
}

phase build
make --no-print-directory lint || broken+=(lint)
make --no-print-directory build || { echo "The build failed; nothing was tested." >&2; exit 1; }
phase "install the clients"
make --no-print-directory venvs || { echo "The clients could not be installed; nothing was tested." >&2; exit 1; }

export BERTH_BIN=$root/bin/berth BERTH_LIBEXEC=$root/bin/libexec
export BERTH_PYTHON=$root/.build/venv-azureml/bin/python BERTH_AZ=$root/.build/venv-azcli/bin/az
go build -o "$root/.build/gotestsum" gotest.tools/gotestsum || exit 1
gotestsum() { "$root/.build/gotestsum" --format pkgname-and-test-fails --hide-summary skipped --junitfile "$results/$1.xml" -- "${@:2}"; }

# Real clusters are measured against deadlines, so nothing else runs beside them.
suite go gotestsum go -race -timeout 25m -p 2 -skip '^TestLarge' $(go list ./... | grep -v -e internal/cluster/local -e test/realcluster)
suite local gotestsum local -count=1 -timeout 25m -p 1 ./internal/cluster/local/... ./test/realcluster
suite kube bash -c "cd kube && CGO_ENABLED=0 '$root/.build/gotestsum' --format pkgname-and-test-fails --junitfile '$results/kube.xml' -- -trimpath ./internal/..." # flags of kube.mk, whose build is in the cache
# Web services wait for pods most of the time, so the other clients' suites run beside them.
webservices() {
	"$BERTH_PYTHON" -m pytest -q -W ignore -p no:cacheprovider --junitxml "$results/webservices.xml" test/clients/python/test_webservice.py
}
suite large gotestsum large -timeout 25m -p 1 -run '^TestLarge' ./internal/blob ./internal/image ./internal/registry # they measure memory, so without the race detector
(suite webservices webservices >"$results/webservices.log" 2>&1) &
serving=$!
suite clients test/clients/run.sh
wait "$serving"
cat "$results/webservices.log"
[ -s "$results/webservices.xml" ] || broken+=(webservices)

phase count
go run ./tools/testcount "${broken[@]/#/-broken=}" "$results"/*.xml
