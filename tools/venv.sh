#!/usr/bin/env bash
# Makes a virtual environment with exactly the packages of a requirements file.
# usage: venv.sh PYTHON FOLDER REQUIREMENTS
set -euo pipefail
python=$1 folder=$2 requirements=$3

rm -rf "$folder"
if ! "$python" -m venv "$folder" 2>/dev/null; then
	# Debian keeps venv in a package of its own.
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "venv.sh: $python cannot make virtual environments; install the package python3-venv, then run make again." >&2
		exit 1
	fi
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv
	rm -rf "$folder"
	"$python" -m venv "$folder"
fi
# uv resolves and unpacks these large sets many times faster than pip.
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check uv
VIRTUAL_ENV=$folder "$folder/bin/uv" pip install --quiet -r "$requirements"
