"""azureml-core as published, through the whole how-to, against a running Berth."""

import time

import pytest

azureml = pytest.importorskip("azureml.core")
from azureml.core import Workspace  # noqa: E402
from azureml.core.authentication import ServicePrincipalAuthentication  # noqa: E402
from azureml.core.compute import AksCompute, ComputeTarget  # noqa: E402
from azureml.exceptions import ComputeTargetException  # noqa: E402

CLIENT = "azureml-core"


def proves(operation, *behaviours):
    return pytest.mark.proves(CLIENT, operation, *behaviours)


@pytest.fixture(scope="session")
def auth(berth):
    import os

    return ServicePrincipalAuthentication(os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"])


@pytest.fixture(scope="session")
def ws(berth, auth):
    import os

    return Workspace.get(berth.workspace, auth=auth, subscription_id=os.environ["AZURE_SUBSCRIPTION_ID"], resource_group=berth.group)


@pytest.fixture(scope="session")
def created(ws):
    target = ComputeTarget.create(ws, "created", AksCompute.provisioning_configuration())
    target.wait_for_completion()
    return target


def cluster(berth, name, count=3, size="Standard_D3_v2", location="northeurope"):
    berth.cli("aks", "create", "-n", name, "-g", berth.group, "-c", str(count), "-s", size, "-l", location)
    return berth.cli("aks", "show", "-n", name, "-g", berth.group, "--query", "id", "-o", "tsv")


def gone(ws, name):
    deadline = time.monotonic() + 30
    while name in ws.compute_targets:
        assert time.monotonic() < deadline, f"{name} is still there"
        time.sleep(0.1)


def refusal(call, *words):
    with pytest.raises(ComputeTargetException) as e:
        call()
    for word in words:
        assert word in str(e.value), f"{word!r} is not in: {e.value}"


@proves("Workspace.get", "P1")
def test_workspace_get(ws):
    assert ws.location == "westeurope"
    assert ws.get_details()["provisioningState"] == "Succeeded"


@proves("Workspace.from_config", "P1")
def test_workspace_from_config(ws, auth, tmp_path):
    ws.write_config(path=str(tmp_path))
    assert Workspace.from_config(path=str(tmp_path), auth=auth).name == ws.name


@proves("Workspace.list", "P1")
def test_workspace_list(ws, auth):
    assert ws.name in Workspace.list(ws.subscription_id, auth=auth)


@proves("Workspace.update", "P1")
def test_workspace_update(ws, berth):
    ws.update(friendly_name="Renamed")
    assert berth.cli("ml", "workspace", "show", "-w", ws.name, "-g", berth.group, "--query", "friendlyName", "-o", "tsv") == "Renamed"


@proves("Workspace.delete", "P1")
def test_workspace_delete(berth, auth, ws):
    berth.cli("ml", "workspace", "create", "-w", "doomed", "-g", berth.group)
    doomed = Workspace.get("doomed", auth=auth, subscription_id=ws.subscription_id, resource_group=berth.group)
    doomed.delete()
    assert "doomed" not in Workspace.list(ws.subscription_id, auth=auth)


@proves("ComputeTarget.create, default configuration", "C1", "C3", "C6", "R2")
def test_create_default(created):
    created.refresh_state()
    assert created.provisioning_state == "Succeeded"
    assert (created.agent_count, created.agent_vm_size) == (3, "Standard_D3_v2")
    assert created.cluster_purpose == "FastProd"


@proves("wait_for_completion(show_output=True)", "C3")
def test_wait_shows_output(ws, capsys):
    target = ComputeTarget.create(ws, "shown", AksCompute.provisioning_configuration())
    target.wait_for_completion(show_output=True)
    assert "Succeeded" in capsys.readouterr().out
    target.delete()
    gone(ws, "shown")


@proves("ComputeTarget.create, DEV_TEST", "C1", "R2", "R3")
def test_create_devtest(ws):
    config = AksCompute.provisioning_configuration(cluster_purpose=AksCompute.ClusterPurpose.DEV_TEST)
    target = ComputeTarget.create(ws, "devtest", config)
    target.wait_for_completion()
    assert (target.provisioning_state, target.agent_count) == ("Succeeded", 1)
    target.delete()
    gone(ws, "devtest")


@proves("ComputeTarget.create, count and size and location", "C2", "A3")
def test_create_options(ws):
    config = AksCompute.provisioning_configuration(agent_count=4, vm_size="Standard_D4s_v3", location="northeurope")
    target = ComputeTarget.create(ws, "options", config)
    target.wait_for_completion()
    assert (target.agent_count, target.agent_vm_size, target.cluster_location) == (4, "Standard_D4s_v3", "northeurope")
    target.delete()
    gone(ws, "options")


@proves("ComputeTarget.create, too few vCPUs refused", "R3")
def test_create_too_small(ws):
    config = AksCompute.provisioning_configuration(agent_count=1)
    refusal(lambda: ComputeTarget.create(ws, "small", config), "NotEnoughCores", "at least 12 cores", "3 nodes")


@proves("ComputeTarget.create, bad names refused", "R1")
@pytest.mark.parametrize("name", ["ab", "1abc", "a" * 25, "with_underscore", "local"])
def test_create_bad_name(ws, name):
    with pytest.raises((ComputeTargetException, Exception)) as e:
        ComputeTarget.create(ws, name, AksCompute.provisioning_configuration())
    assert "name" in str(e.value).lower()


@proves("ComputeTarget.create, name taken in the region refused", "R1")
def test_create_name_taken(ws, created, berth, auth):
    berth.cli("ml", "workspace", "create", "-w", "second-ws", "-g", berth.group)
    other = Workspace.get("second-ws", auth=auth, subscription_id=ws.subscription_id, resource_group=berth.group)
    refusal(lambda: ComputeTarget.create(other, "created", AksCompute.provisioning_configuration()), "unique across all existing computes within an Azure region")


@proves("ComputeTarget.create, leaf domain label refused by name", "C2")
def test_create_leaf_domain(ws):
    config = AksCompute.provisioning_configuration()
    config.enable_ssl(leaf_domain_label="label")
    refusal(lambda: ComputeTarget.create(ws, "leaf", config), "leafDomainLabel")


@proves("ComputeTarget.create, virtual network refused by name", "C2")
def test_create_vnet(ws):
    config = AksCompute.provisioning_configuration(
        vnet_resourcegroup_name="rg", vnet_name="vnet", subnet_name="subnet", service_cidr="10.0.0.0/16", dns_service_ip="10.0.0.10", docker_bridge_cidr="172.17.0.1/16"
    )
    refusal(lambda: ComputeTarget.create(ws, "vnet", config), "subnetId", "dockerBridgeCidr")


@proves("ComputeTarget.attach", "A1", "A2", "A3", "A7")
def test_attach_detach_attach(ws, berth):
    id = cluster(berth, "existing")
    by_name = AksCompute.attach_configuration(resource_group=berth.group, cluster_name="existing")
    by_id = AksCompute.attach_configuration(resource_id=id.upper().replace("/SUBSCRIPTIONS/", "/subscriptions/").replace("MICROSOFT.CONTAINERSERVICE", "Microsoft.ContainerService"))
    for config in (by_name, by_id):
        target = ComputeTarget.attach(ws, "attached", config)
        target.wait_for_completion()
        assert target.provisioning_state == "Succeeded"
        target.detach()
        gone(ws, "attached")
    berth.cli("aks", "show", "-n", "existing", "-g", berth.group)  # A6: still there
    berth.cli("aks", "delete", "-n", "existing", "-g", berth.group, "--yes")


@proves("ComputeTarget.attach, second attachment refused", "A5")
def test_attach_twice(ws, berth):
    cluster(berth, "once")
    config = AksCompute.attach_configuration(resource_group=berth.group, cluster_name="once")
    first = ComputeTarget.attach(ws, "first", config)
    first.wait_for_completion()
    refusal(lambda: ComputeTarget.attach(ws, "again", config), "ClusterAlreadyAttached", "first", "detach")
    first.detach()
    gone(ws, "first")
    berth.cli("aks", "delete", "-n", "once", "-g", berth.group, "--yes")


@proves("ComputeTarget.attach, too few vCPUs refused", "R3")
def test_attach_too_small(ws, berth):
    cluster(berth, "tiny", count=1, size="Standard_D2s_v3")
    production = AksCompute.attach_configuration(resource_group=berth.group, cluster_name="tiny")
    refusal(lambda: ComputeTarget.attach(ws, "tiny-a", production), "NotEnoughCores", "it has 2", "6 nodes")
    devtest = AksCompute.attach_configuration(resource_group=berth.group, cluster_name="tiny", cluster_purpose=AksCompute.ClusterPurpose.DEV_TEST)
    target = ComputeTarget.attach(ws, "tiny-a", devtest)
    target.wait_for_completion()
    assert target.cluster_purpose == "DevTest"
    target.detach()
    gone(ws, "tiny-a")
    berth.cli("aks", "delete", "-n", "tiny", "-g", berth.group, "--yes")


@proves("AksCompute.delete of an attached cluster refused", "A6")
def test_delete_attached(ws, berth):
    cluster(berth, "keep")
    target = ComputeTarget.attach(ws, "keeper", AksCompute.attach_configuration(resource_group=berth.group, cluster_name="keep"))
    target.wait_for_completion()
    refusal(target.delete, "DeleteOfAttachedClusterNotAllowed")
    berth.cli("aks", "show", "-n", "keep", "-g", berth.group)
    target.detach()
    gone(ws, "keeper")


@proves("AksCompute after its cluster was deleted", "C5")
def test_cluster_deleted(ws, berth):
    cluster(berth, "mortal")
    config = AksCompute.attach_configuration(resource_group=berth.group, cluster_name="mortal")
    target = ComputeTarget.attach(ws, "widowed", config)
    target.wait_for_completion()
    berth.cli("aks", "delete", "-n", "mortal", "-g", berth.group, "--yes")
    deadline = time.monotonic() + 20
    while target.provisioning_state != "Failed":
        assert time.monotonic() < deadline, "the compute does not notice"
        time.sleep(0.1)
        target.refresh_state()
    assert "was deleted" in str(target.provisioning_errors)
    again = ComputeTarget.create(ws, "widowed", AksCompute.provisioning_configuration())
    again.wait_for_completion()
    assert again.provisioning_state == "Succeeded"
    again.delete()
    gone(ws, "widowed")


@proves("ComputeTarget.list, Workspace.compute_targets", "C4")
def test_list(ws, created):
    assert "created" in [c.name for c in ComputeTarget.list(ws)]
    assert "created" in ws.compute_targets


@proves("AksCompute.get_credentials", "C3")
def test_credentials(created):
    keys = created.get_credentials()
    assert "clusters" in keys["adminKubeConfig"] and "clusters" in keys["userKubeConfig"]


@proves("AksCompute.update, TLS off", "C2")
def test_update(created):
    from azureml.core.compute.aks import AksUpdateConfiguration, SslConfiguration

    created.update(AksUpdateConfiguration(SslConfiguration(status="Disabled")))
    created.wait_for_completion()
    created.refresh_state()
    assert created.provisioning_state == "Succeeded" and created.agent_count == 3


@proves("AksCompute.serialize", "C3")
def test_serialize(created):
    assert created.serialize()["name"] == "created"


@proves("AksCompute.delete", "A6")
def test_delete_created(ws, created):
    created.delete()
    gone(ws, "created")
