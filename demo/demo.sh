#!/usr/bin/env bash
# The how-to, end to end, on this machine: unmodified azureml-core and azure-cli create and
# attach real Kubernetes clusters through Berth. It leaves nothing behind.
#
# BERTH_DEMO_PROVIDER=fake runs it without real nodes, for a machine without root.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
provider=${BERTH_DEMO_PROVIDER:-local}
berth=$root/bin/berth
az=$root/.build/venv-azcli/bin/az
python=$root/.build/venv-azureml/bin/python
kubectl=$root/bin/libexec/kubectl
group=demo-rg
workspace=demo-ws

if [ "$provider" = local ] && [ "$(id -u)" != 0 ]; then
	echo "The demo makes real clusters, and that needs root. Run it with sudo, or without real nodes:" >&2
	echo "  BERTH_DEMO_PROVIDER=fake make demo" >&2
	exit 1
fi

work=$(mktemp -d)
export BERTH_HOME=$work/home
phases=()

bold() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$1"; else printf '\n== %s\n' "$1"; fi; }
phase() { # title, command…
	local title=$1 start=$EPOCHREALTIME
	shift
	bold "$title"
	"$@" 2>&1 | sed -u 's/^/   /'
	phases+=("$(printf '%7.1f s  %s' "$(awk "BEGIN {print $EPOCHREALTIME - $start}")" "$title")")
}

leftovers() { # what carries this installation's mark, and should not be there any more
	local id=$1
	{
		grep -lsz "^BERTH_INSTALLATION=$id\$" /proc/[0-9]*/environ | sed 's/^/process /'
		grep -F "$work" /proc/mounts | sed 's/^/mount /'
		ip netns list 2>/dev/null | grep -F "$id" | sed 's/^/network namespace /'
		find /sys/fs/cgroup -maxdepth 4 -type d -name "*$id*" 2>/dev/null | sed 's/^/cgroup /'
	} || true
}

cleanup() {
	local code=$?
	trap - EXIT INT TERM
	bold "Clean up"
	local id
	id=$("$berth" status --query installationId -o tsv 2>/dev/null || true)
	"$berth" down --delete --yes 2>&1 | sed 's/^/   /' || code=1
	if [ -n "$id" ]; then
		local left
		left=$(leftovers "$id")
		if [ -n "$left" ]; then
			echo "   This is left behind:" && echo "$left" | sed 's/^/   /'
			code=1
		else
			echo "   nothing is left behind"
		fi
	fi
	rm -rf "$work"
	if [ "$code" = 0 ]; then
		bold "Done"
		printf '   %s\n' "${phases[@]}"
	else
		bold "The demo failed (exit code $code)"
	fi
	exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

howto() { "$berth" run -- "$python" demo/howto.py "$1"; }
cluster_of() { "$berth" ml computetarget show -n "$1" -g $group -w $workspace --query properties.resourceId -o tsv; }

show_nodes() { # compute
	local id
	id=$(cluster_of "$1")
	"$berth" aks get-credentials -n "${id##*/}" -g $group --admin -f "$work/$1.kubeconfig" --only-show-errors
	"$kubectl" --kubeconfig "$work/$1.kubeconfig" get nodes
	"$kubectl" --kubeconfig "$work/$1.kubeconfig" get nodes \
		-o custom-columns=NAME:.metadata.name,SIZE:.metadata.labels.node\\.kubernetes\\.io/instance-type,CPU:.status.capacity.cpu,MEMORY:.status.capacity.memory
	[ "$("$kubectl" --kubeconfig "$work/$1.kubeconfig" get nodes --no-headers | grep -cw Ready)" = 3 ] || { echo "not three Ready nodes"; return 1; }
}

run_pod() { # compute
	local k="$kubectl --kubeconfig $work/$1.kubeconfig"
	$k run hello --image=berth.dev/hello:1 --image-pull-policy=Never --restart=Never
	$k wait pod/hello --for=condition=Ready --timeout=60s
	local answer
	answer=$($k get --raw /api/v1/namespaces/default/pods/hello:8080/proxy/)
	echo "It answers: $answer"
	$k delete pod hello --wait=false
}

az_create() {
	"$berth" run -- "$az" aks create -n myexistingcluster -g $group --node-count 1 --node-vm-size Standard_D2s_v3 --no-ssh-key \
		--query '{name: name, state: provisioningState, version: currentKubernetesVersion}' -o table
	echo "az aks show --query id:"
	"$berth" run -- "$az" aks show -n myexistingcluster -g $group --query id
}

phase "Start Berth" "$berth" up --detach --provider "$provider" --libexec "$root/bin/libexec"
phase "az group create" "$berth" run -- "$az" group create -n $group -l westeurope --query properties.provisioningState -o tsv
phase "Create a workspace" "$berth" ml workspace create -w $workspace -g $group --query id -o tsv
phase "azureml-core: ComputeTarget.create with the default configuration" howto create
if [ "$provider" = local ]; then
	phase "kubectl get nodes: three nodes of Standard_D3_v2" show_nodes myaks
	phase "A pod runs and answers" run_pod myaks
fi
phase "azure-cli: az aks create of a second cluster" az_create
phase "azureml-core: ComputeTarget.attach" howto attach
phase "azureml-core: ComputeTarget.list" howto list_computes
phase "azureml-core: Model.register of a scikit-learn model" howto register
if [ "$provider" = local ]; then
	phase "azureml-core: Model.deploy, a new environment and two replicas" howto deploy
	phase "Score: service.run and plain HTTP" howto score
	phase "azureml-core: update to a second version, under load" howto update
	phase "azureml-core: get_logs, regen_key, get_token" howto manage
	phase "azureml-core: service.delete" howto undeploy
fi
phase "azureml-core: detach" howto detach
phase "azureml-core: delete" howto delete
phase "az group delete" "$berth" run -- "$az" group delete -n $group --yes
