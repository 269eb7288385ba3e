"""azure-cli as published, against a running Berth."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import requests

pytest.importorskip("azure.cli.core")
CLIENT = "azure-cli"
AZ = str(pathlib.Path(sys.executable).parent / "az")


def proves(operation, *behaviours):
    return pytest.mark.proves(CLIENT, operation, *behaviours)


def az(*args, fails=None, config=None):
    """Runs az, in a configuration folder (that is: signed in) of its own with config."""
    env = os.environ | ({"AZURE_CONFIG_DIR": str(config)} if config else {})
    out = subprocess.run([AZ, *args, "-o", "json"], capture_output=True, text=True, timeout=180, env=env)
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


class Member:
    """Somebody of the team, signed in to an az of their own."""

    def __init__(self, folder, *login):
        self.folder = folder
        az("login", *login, "--allow-no-subscriptions", config=folder)

    def az(self, *args, fails=None):
        return az(*args, fails=fails, config=self.folder)

    def arm(self, method, path, body=None, version="2021-04-01"):
        """Sends one request with the member's token: the status, and the error's code."""
        token = self.az("account", "get-access-token", "--resource", "https://management.azure.com")["accessToken"]
        url = f"https://management.azure.com{path}?api-version={version}"
        answer = requests.request(method, url, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        return answer.status_code, answer.json().get("error", {}).get("code")


FORBIDDEN = (403, "AuthorizationFailed")
GONE = (401, "InvalidAuthenticationToken")  # the principal, or its right to sign in


@pytest.fixture(scope="session")
def program(group, tmp_path_factory):
    """A service principal that reads one group: what az tells of it, and the group's ID."""
    scope = az("group", "create", "-n", "team-rg", "-l", "westeurope")["id"]
    return az("ad", "sp", "create-for-rbac", "-n", "team-ci", "--role", "Reader", "--scopes", scope), scope


def sign_in(folder, program):
    return Member(folder, "--service-principal", "-u", program["appId"], "-p", program["password"], "-t", program["tenant"])


@proves("az ad sp create-for-rbac; a Reader reads, a Contributor writes, only an Owner grants roles", "P2")
def test_roles_enforced(program, group, tmp_path):
    made, scope = program
    other = scope.removesuffix("team-rg") + group
    change = {"location": "westeurope", "tags": {"by": "team-ci"}}
    grant = f"{scope}/providers/Microsoft.Authorization/roleAssignments/11111111-2222-3333-4444-666666666666"
    owner = {"properties": {"roleDefinitionId": "8e3af657-a8ff-443c-a75c-2fe8c4bcb635", "principalId": az("ad", "sp", "show", "--id", made["appId"])["id"]}}
    ci = sign_in(tmp_path, made)

    assert ci.arm("GET", scope) == (200, None)
    assert ci.arm("GET", other) == FORBIDDEN
    assert ci.arm("PUT", scope, change) == FORBIDDEN
    ci.az("ad", "app", "create", "--display-name", "backdoor", fails="takes the role Owner")
    ci.az("ad", "user", "list")

    az("role", "assignment", "create", "--assignee", made["appId"], "--role", "Contributor", "--scope", scope)
    assert ci.arm("PUT", scope, change) == (200, None)
    assert az("group", "show", "-n", "team-rg")["tags"] == change["tags"]
    assert ci.arm("PUT", other, change) == FORBIDDEN
    assert ci.arm("PUT", grant, owner, version="2022-04-01") == FORBIDDEN

    az("role", "assignment", "delete", "--assignee", made["appId"], "--scope", scope)
    assert ci.arm("GET", scope) == FORBIDDEN
    assert ci.arm("PUT", scope, change) == FORBIDDEN


@proves("az ad sp credential reset by an Owner of the subscription, by nobody else", "P2")
def test_directory_is_for_owners(program, tmp_path):
    made, scope = program
    subscription = scope.removesuffix("/resourceGroups/team-rg")
    ci = sign_in(tmp_path, made)
    reset = ("ad", "sp", "credential", "reset", "--id", made["appId"], "--append")
    for role, at in ("Owner", scope), ("Contributor", subscription):
        az("role", "assignment", "create", "--assignee", made["appId"], "--role", role, "--scope", at)
        ci.az(*reset, fails=f"takes the role Owner on {subscription}.")
    az("role", "assignment", "create", "--assignee", made["appId"], "--role", "Owner", "--scope", subscription)
    assert ci.az(*reset)["password"]
    for at in scope, subscription:
        az("role", "assignment", "delete", "--assignee", made["appId"], "--scope", at)


@proves("az ad sp list / show / credential list / credential reset / delete, az ad app list", "P2")
def test_service_principal(program, tmp_path):
    made, _ = program
    assert [p["appId"] for p in az("ad", "sp", "list", "--display-name", "team-ci")] == [made["appId"]]
    assert [a["appId"] for a in az("ad", "app", "list", "--display-name", "team-ci")] == [made["appId"]]
    shown = az("ad", "sp", "show", "--id", made["appId"])
    assert az("ad", "sp", "show", "--id", shown["id"]) == shown
    assert shown["passwordCredentials"][0]["secretText"] is None and made["password"] not in json.dumps(shown)

    fresh = az("ad", "sp", "credential", "reset", "--id", made["appId"])
    assert len(az("ad", "sp", "credential", "list", "--id", made["appId"])) == 1
    az("login", "--service-principal", "-u", made["appId"], "-p", made["password"], "-t", made["tenant"], fails="AADSTS7000215", config=tmp_path / "old")
    ci = sign_in(tmp_path / "ci", fresh)
    assert ci.arm("GET", "/subscriptions") == (200, None)
    again = az("ad", "sp", "create-for-rbac", "-n", "team-ci")
    assert again["appId"] == made["appId"] and again["password"] not in (fresh["password"], made["password"])

    az("ad", "sp", "delete", "--id", os.environ["AZURE_CLIENT_ID"], fails="cannot delete yourself")
    az("ad", "sp", "delete", "--id", made["appId"])
    assert az("ad", "sp", "list", "--display-name", "team-ci") == []
    assert ci.arm("GET", "/subscriptions") == GONE
    az("login", "--service-principal", "-u", made["appId"], "-p", again["password"], "-t", made["tenant"], fails="AADSTS700016", config=tmp_path / "gone")


@proves("az ad app create / update / show / credential reset --append / delete, az ad sp create", "P2")
def test_application(berth):
    app = az("ad", "app", "create", "--display-name", "tool")
    assert az("ad", "sp", "create", "--id", app["appId"])["appId"] == app["appId"]
    az("ad", "app", "update", "--id", app["appId"], "--display-name", "tool 2")
    assert az("ad", "app", "show", "--id", app["id"])["displayName"] == "tool 2"
    az("ad", "app", "credential", "reset", "--id", app["appId"], "--append", "--display-name", "one")
    az("ad", "app", "credential", "reset", "--id", app["appId"], "--append", "--display-name", "two", "--end-date", "2099-01-01")
    one, two = az("ad", "app", "credential", "list", "--id", app["appId"])
    assert (one["displayName"], two["endDateTime"]) == ("one", "2099-01-01T00:00:00Z")
    az("ad", "app", "credential", "delete", "--id", app["appId"], "--key-id", one["keyId"])
    assert [c["displayName"] for c in az("ad", "app", "credential", "list", "--id", app["appId"])] == ["two"]
    az("ad", "app", "create", "--display-name", "web", "--web-redirect-uris", "https://localhost", fails="web/redirectUris")
    az("ad", "app", "delete", "--id", app["id"])
    az("ad", "app", "show", "--id", app["id"], fails="No such user, application or service principal")


@proves("az ad user create / list / show / update / delete, az login as the user", "P2")
def test_user(group, tmp_path):
    name, password = "grace@berth.example", "correct horse battery"
    made = az("ad", "user", "create", "--display-name", "Grace", "--user-principal-name", name, "--password", password)
    assert az("ad", "user", "show", "--id", name)["id"] == made["id"]
    assert [u["displayName"] for u in az("ad", "user", "list", "--upn", name)] == ["Grace"]
    az("ad", "user", "create", "--display-name", "Other", "--user-principal-name", name, "--password", password, fails="already")
    scope = az("group", "show", "-n", group)["id"]
    az("role", "assignment", "create", "--assignee", name, "--role", "Reader", "--scope", scope)
    grace = Member(tmp_path, "-u", name, "-p", password)
    assert grace.az("ad", "signed-in-user", "show")["displayName"] == "Grace"
    assert grace.arm("GET", scope) == (200, None)
    assert grace.arm("DELETE", scope) == FORBIDDEN
    az("ad", "user", "update", "--id", name, "--account-enabled", "false")
    assert grace.arm("GET", scope) == GONE
    az("ad", "user", "update", "--id", name, "--account-enabled", "true")
    assert grace.arm("GET", scope) == (200, None)
    az("ad", "user", "delete", "--id", name)
    assert az("ad", "user", "list", "--upn", name) == []
    assert grace.arm("GET", scope) == GONE
    again = az("ad", "user", "create", "--display-name", "Grace", "--user-principal-name", name, "--password", password)
    assert Member(tmp_path / "again", "-u", name, "-p", password).arm("GET", scope) == FORBIDDEN
    az("ad", "user", "delete", "--id", again["id"])


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
