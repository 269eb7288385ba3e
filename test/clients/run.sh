#!/usr/bin/env bash
# Runs the suites of the unmodified clients, each against a Berth of its own.
# Needs BERTH_BIN and the virtual environments of `make venvs`; writes JUnit files to
# $BERTH_RESULTS and what was proved to $BERTH_CONFORMANCE.
set -uo pipefail
cd "$(dirname "$0")"
build=$(cd ../.. && pwd)/.build
results=${BERTH_RESULTS:-$build/results}
export BERTH_CONFORMANCE=${BERTH_CONFORMANCE:-$results/conformance} BERTH_BIN=${BERTH_BIN:-$(cd ../.. && pwd)/bin/berth}
mkdir -p "$BERTH_CONFORMANCE"
[ -n "${BERTH_RESULTS:-}" ] || rm -f "$BERTH_CONFORMANCE"/*.jsonl # of the last time; who sets BERTH_RESULTS begins with an empty folder
code=0
suite() { # name, environment, file
	"$build/$2/bin/python" -m pytest -q -W ignore -p no:cacheprovider --junitxml "$results/clients-$1.xml" "python/$3" || code=1
}
suite azureml-core venv-azureml test_azureml.py &
first=$!
suite azure-cli venv-azcli test_azcli.py
wait $first || code=1
modules=(gosdk)
if command -v terraform >/dev/null; then # no package registry has it, so its absence is no failure
	modules+=(terraform)
else
	echo "There is no terraform on this machine, so its suite is left out. Install Terraform 1.11 or newer to run it."
fi
for module in "${modules[@]}"; do
	(cd $module && "$build/gotestsum" --format pkgname-and-test-fails --junitfile "$results/clients-$module.xml" -- -count=1 ./...) || code=1
done
exit $code
