"""azure-cli as published, against a running Berth."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("azure.cli.core")
CLIENT = "azure-cli"
AZ = str(pathlib.Path(sys.executable).parent / "az")


def proves(operation, *behaviours):
    return pytest.mark.proves(CLIENT, operation, *behaviours)


def az(*args, fails=None):
    out = subprocess.run([AZ, *args, "-o", "json"], capture_output=True, text=True, timeout=180)
    if fails is not None:
        assert out.returncode != 0 and fails in out.stderr, f"{out.returncode}: {out.stdout}{out.stderr}"
        return None
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout) if out.stdout.strip() else None


@pytest.fixture(scope="session", autouse=True)
def group(berth):
    az("group", "create", "-n", "az-rg", "-l", "westeurope", "--tags", "a=b")
    return "az-rg"


@pytest.fixture(scope="session")
def cluster(group):
    return az("aks", "create", "-n", "azc", "-g", group, "--no-ssh-key", "--node-count", "3", "--node-vm-size", "Standard_D3_v2")


@proves("az account show / list / list-locations", "P2")
def test_account(berth):
    assert az("account", "show")["id"] == os.environ["AZURE_SUBSCRIPTION_ID"]
    assert len(az("account", "list")) == 1
    west = [r for r in az("account", "list-locations") if r["name"] == "westeurope"][0]
    assert west["metadata"]["pairedRegion"][0]["name"] == "northeurope"


@proves("az group create / show / list / exists / update / delete", "P2")
def test_group(group):
    assert az("group", "show", "-n", group)["tags"] == {"a": "b"}
    assert group in [g["name"] for g in az("group", "list")]
    assert az("group", "exists", "-n", group) is True
    assert az("group", "exists", "-n", "nowhere") is False
    assert az("group", "update", "-n", group, "--tags", "c=d")["tags"] == {"c": "d"}
    az("group", "create", "-n", "doomed", "-l", "eastus")
    az("group", "delete", "-n", "doomed", "--yes")
    assert az("group", "exists", "-n", "doomed") is False


@proves("az aks create", "A8")
def test_aks_create(cluster):
    assert cluster["provisioningState"] == "Succeeded"
    assert cluster["agentPoolProfiles"][0]["count"] == 3
    assert cluster["fqdn"].endswith(".hcp.westeurope.azmk8s.io")


@proves("az aks show --query id", "A1", "A2")
def test_aks_show(cluster, group):
    id = az("aks", "show", "-n", "azc", "-g", group, "--query", "id")
    assert id == f"/subscriptions/{os.environ['AZURE_SUBSCRIPTION_ID']}/resourcegroups/{group}/providers/Microsoft.ContainerService/managedClusters/azc"


@proves("berth aks show prints what az aks show prints", "A1")
def test_same_output(berth, cluster, group):
    assert berth.cli("aks", "show", "-n", "azc", "-g", group, "--query", "id") == json.dumps(cluster["id"])


@proves("az aks create of an existing cluster refused by az", "C4")
def test_aks_create_again(cluster, group):
    az("aks", "create", "-n", "azc", "-g", group, "--no-ssh-key", fails="already exists")


@proves("az aks list", "C4")
def test_aks_list(cluster, group):
    assert [c["name"] for c in az("aks", "list", "-g", group)] == ["azc"]


@proves("az aks scale", "R4")
def test_aks_scale(cluster, group):
    assert az("aks", "scale", "-n", "azc", "-g", group, "-c", "4")["agentPoolProfiles"][0]["count"] == 4
    assert az("aks", "scale", "-n", "azc", "-g", group, "-c", "3")["agentPoolProfiles"][0]["count"] == 3


@proves("az aks nodepool add / list / show / scale / delete", "R4", "R5")
def test_nodepool(cluster, group):
    common = ("--cluster-name", "azc", "-g", group)
    assert az("aks", "nodepool", "add", "-n", "pool2", *common, "-c", "1")["provisioningState"] == "Succeeded"
    assert len(az("aks", "nodepool", "list", *common)) == 2
    assert az("aks", "nodepool", "scale", "-n", "pool2", *common, "-c", "2")["count"] == 2
    assert az("aks", "nodepool", "show", "-n", "pool2", *common)["vmSize"]
    az("aks", "nodepool", "delete", "-n", "pool2", *common)
    assert [p["name"] for p in az("aks", "nodepool", "list", *common)] == ["nodepool1"]


@proves("az aks get-credentials", "A1")
def test_credentials(cluster, group, tmp_path):
    az("aks", "get-credentials", "-n", "azc", "-g", group, "--admin", "-f", str(tmp_path / "config"))
    assert "azc-admin" in (tmp_path / "config").read_text()


@proves("az aks get-versions", "A4")
def test_versions(berth):
    assert any(v["isDefault"] for v in az("aks", "get-versions", "-l", "westeurope")["values"])


@proves("az aks create with an unknown VM size refused", "R3")
def test_unknown_size(group):
    az("aks", "create", "-n", "odd", "-g", group, "--no-ssh-key", "--node-vm-size", "Standard_D3_v22", fails="Standard_D3_v2?")


@proves("az resource list", "P2")
def test_resources(cluster, group):
    assert "azc" in [r["name"] for r in az("resource", "list", "-g", group)]


@proves("az provider list / show / register", "P2")
def test_provider(berth):
    assert az("provider", "show", "-n", "Microsoft.MachineLearningServices")["registrationState"] == "Registered"
    az("provider", "register", "-n", "Microsoft.ContainerService")
    assert len(az("provider", "list")) >= 5


@proves("az role assignment create / list / delete", "P2")
def test_roles(group):
    scope = f"/subscriptions/{os.environ['AZURE_SUBSCRIPTION_ID']}/resourceGroups/{group}"
    someone = "11111111-2222-3333-4444-555555555555"
    made = az("role", "assignment", "create", "--assignee-object-id", someone, "--assignee-principal-type", "ServicePrincipal", "--role", "Reader", "--scope", scope)
    assert made["properties"]["principalId"] == someone

    def holders():
        return [a.get("properties", a)["principalId"] for a in az("role", "assignment", "list", "--scope", scope)]

    assert someone in holders()
    az("role", "assignment", "delete", "--ids", made["id"])
    assert someone not in holders()


@proves("az storage account create / show", "P1")
def test_storage(group):
    az("storage", "account", "create", "-n", "berthstore1", "-g", group, "-l", "westeurope")
    assert az("storage", "account", "show", "-n", "berthstore1", "-g", group)["primaryEndpoints"]["blob"]


@proves("az keyvault create / show", "P1")
def test_keyvault(group):
    az("keyvault", "create", "-n", "berthvault1", "-g", group, "-l", "westeurope")
    assert az("keyvault", "show", "-n", "berthvault1", "-g", group)["properties"]["vaultUri"]


@proves("az acr create / show", "P1")
def test_acr(group):
    az("acr", "create", "-n", "berthacr1", "-g", group, "--sku", "Basic")
    assert az("acr", "show", "-n", "berthacr1", "-g", group)["loginServer"] == "berthacr1.azurecr.io"


@proves("az rest", "P2")
def test_rest(berth):
    url = f"https://management.azure.com/subscriptions/{os.environ['AZURE_SUBSCRIPTION_ID']}/resourceGroups/{berth.group}/providers/Microsoft.MachineLearningServices/workspaces/{berth.workspace}?api-version=2018-11-19"
    assert az("rest", "-m", "get", "-u", url)["name"] == berth.workspace


@proves("az aks delete", "A6")
def test_aks_delete(cluster, group):
    az("aks", "delete", "-n", "azc", "-g", group, "--yes")
    assert az("aks", "list", "-g", group) == []
