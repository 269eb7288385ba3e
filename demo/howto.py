"""The how-to's own code, with azureml-core as published.

Each step is what the how-to shows; around it is only the timing. Where this talks to is
decided by the environment alone (`berth run -- python howto.py STEP`).
"""

import os
import sys
import time

from azureml.core import Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
from azureml.core.compute import AksCompute, ComputeTarget

GROUP, WORKSPACE = "demo-rg", "demo-ws"

auth = ServicePrincipalAuthentication(
    tenant_id=os.environ["AZURE_TENANT_ID"],
    service_principal_id=os.environ["AZURE_CLIENT_ID"],
    service_principal_password=os.environ["AZURE_CLIENT_SECRET"],
)
ws = Workspace.get(
    WORKSPACE, auth=auth, subscription_id=os.environ["AZURE_SUBSCRIPTION_ID"], resource_group=GROUP
)


def create():
    # Use the default configuration (can also provide parameters to customize)
    prov_config = AksCompute.provisioning_configuration()

    aks_name = "myaks"
    # Create the cluster
    aks_target = ComputeTarget.create(
        workspace=ws, name=aks_name, provisioning_configuration=prov_config
    )

    # Wait for the create process to complete
    aks_target.wait_for_completion(show_output=True)
    print(f"{aks_target.name}: {aks_target.provisioning_state}, "
          f"{aks_target.agent_count} x {aks_target.agent_vm_size}")


def attach():
    # Set the resource group that contains the AKS cluster and the cluster name
    resource_group = GROUP
    cluster_name = "myexistingcluster"

    # Attach the cluster to your workspace. If the cluster has less than 12 virtual CPUs, use
    # the following instead: cluster_purpose = AksCompute.ClusterPurpose.DEV_TEST
    attach_config = AksCompute.attach_configuration(
        resource_group=resource_group,
        cluster_name=cluster_name,
        cluster_purpose=AksCompute.ClusterPurpose.DEV_TEST,
    )
    aks_target = ComputeTarget.attach(ws, "attached", attach_config)
    aks_target.wait_for_completion(show_output=True)
    print(f"{aks_target.name}: {aks_target.provisioning_state}")


def list_computes():
    for compute in ComputeTarget.list(ws):
        print(f"{compute.name}: {compute.type}, {compute.provisioning_state}")


def gone(name, patience=120):
    """Waits until a compute is gone: detach() and delete() only begin it."""
    deadline = time.monotonic() + patience
    while name in ws.compute_targets:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} is still there after {patience} s")
        time.sleep(0.2)
    print(f"{name}: gone")


def detach():
    ws.compute_targets["attached"].detach()
    gone("attached")


def delete():
    ws.compute_targets["myaks"].delete()
    gone("myaks")


{"create": create, "attach": attach, "list": list_computes, "detach": detach, "delete": delete}[sys.argv[1]]()
