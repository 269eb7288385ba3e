"""The how-to's own code, with azureml-core as published.

Each step is what the how-to shows; around it is only the timing. Where this talks to is
decided by the environment alone (`berth run -- python howto.py STEP`).
"""

import contextlib
import json
import os
import pathlib
import pickle
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

from azureml.core import Environment, Model, Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
from azureml.core.compute import AksCompute, ComputeTarget
from azureml.core.conda_dependencies import CondaDependencies
from azureml.core.model import InferenceConfig
from azureml.core.webservice import AksWebservice
from sklearn import __version__ as sklearn_version
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

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


def train(trees):
    """Trains a model on the wines that come with scikit-learn, and registers it."""
    wines = load_wine()
    classifier = RandomForestClassifier(trees, random_state=1).fit(wines.data, wines.target)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # register takes what is below
        pathlib.Path("wine.pkl").write_bytes(pickle.dumps(classifier))
        model = Model.register(
            ws, model_path="wine.pkl", model_name="wine", tags={"trees": str(trees)},
            model_framework=Model.Framework.SCIKITLEARN, model_framework_version=sklearn_version,
        )
    print(f"registered {model.id}")
    return model


def register():
    train(trees=10)


def inference_config():
    env = Environment("wine")
    env.python.conda_dependencies = CondaDependencies.create(
        python_version="3.11", pip_packages=["azureml-defaults", f"scikit-learn=={sklearn_version}"]
    )
    source = pathlib.Path(__file__).resolve().parent / "source"
    return InferenceConfig(entry_script="score.py", source_directory=str(source), environment=env)


def deploy():
    deployment_config = AksWebservice.deploy_configuration(
        cpu_cores=0.1, memory_gb=0.5, autoscale_enabled=False, num_replicas=2, token_auth_enabled=False
    )
    service = Model.deploy(
        ws, "wine-service", [Model(ws, "wine")], inference_config(), deployment_config, ws.compute_targets["myaks"]
    )
    service.wait_for_deployment(show_output=True)
    print(f"{service.name}: {service.state}, {service.scoring_uri}")


def ask(uri, credential):
    """One plain HTTP request. Returns the status and the answer."""
    wines = load_wine()
    request = urllib.request.Request(
        uri, json.dumps({"data": wines.data[[0, 70, 150]].tolist()}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {credential}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def score():
    service = AksWebservice(ws, "wine-service")
    wines = load_wine()
    sample = [0, 70, 150]
    answer = service.run(json.dumps({"data": wines.data[sample].tolist()}))
    print("service.run:", answer)
    assert answer["classes"] == wines.target[sample].tolist(), answer
    primary, _ = service.get_keys()
    print("HTTP with a key:", *ask(service.scoring_uri, primary))
    print("HTTP with a wrong key:", ask(service.scoring_uri, "wrong")[0])


def update():
    """Serves a second version of the model, while requests go on."""
    service = AksWebservice(ws, "wine-service")
    uri, (primary, _) = service.scoring_uri, service.get_keys()
    answers, done = [], threading.Event()

    def requests():
        while not done.is_set():
            answers.append(ask(uri, primary))

    clients = [threading.Thread(target=requests) for _ in range(2)]
    for c in clients:
        c.start()
    try:
        service.update(models=[train(trees=20)], inference_config=inference_config())
        service.wait_for_deployment(show_output=True)
    finally:
        done.set()
        for c in clients:
            c.join()
    status, answer = ask(uri, primary)
    lost = [a for a in answers if a[0] != 200]
    print(f"{len(answers)} requests during the update, {len(lost)} lost; now {status} from {answer['trees']} trees")
    if lost:
        raise SystemExit(f"the first lost one: {lost[0]}")


def manage():
    service = AksWebservice(ws, "wine-service")
    print("logs:", [line for line in service.get_logs().splitlines() if "model loaded" in line][-1])
    before, _ = service.get_keys()
    service.regen_key("Primary")
    after, _ = service.get_keys()
    wait(lambda: ask(service.scoring_uri, before)[0] == 401, "the old key is refused")
    print("regen_key: the old key gets", ask(service.scoring_uri, before)[0], "and the new one", ask(service.scoring_uri, after)[0])
    service.update(auth_enabled=False, token_auth_enabled=True)
    service.wait_for_deployment()
    token, refresh_after = service.get_token()
    wait(lambda: ask(service.scoring_uri, token)[0] == 200, "the token is accepted")
    print(f"get_token: the token gets {ask(service.scoring_uri, token)[0]}, to be refreshed after {refresh_after}")


def undeploy():
    AksWebservice(ws, "wine-service").delete()
    print("wine-service: gone")


def wait(condition, what, patience=30):
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {patience} s it is not so that {what}")
        time.sleep(0.1)


def gone(name):
    """Waits until a compute is gone: detach() and delete() only begin it."""
    wait(lambda: name not in ws.compute_targets, f"{name} is gone", patience=120)
    print(f"{name}: gone")


def detach():
    ws.compute_targets["attached"].detach()
    gone("attached")


def delete():
    ws.compute_targets["myaks"].delete()
    gone("myaks")


steps = [create, attach, list_computes, register, deploy, score, update, manage, undeploy, detach, delete]
{step.__name__: step for step in steps}[sys.argv[1]]()
