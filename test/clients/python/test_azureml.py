"""azureml-core as published, through the whole how-to, against a running Berth: computes, and of models, environments
and web services all that needs no pods. What they do in pods is test_webservice.py's."""

import contextlib
import json
import os
import pathlib
import time
import types
import urllib.request
import uuid

import pytest

azureml = pytest.importorskip("azureml.core")
from azureml.core import Dataset, Environment, Image, Model, Webservice, Workspace  # noqa: E402
from azureml.core.authentication import ServicePrincipalAuthentication  # noqa: E402
from azureml.core.compute import AksCompute, ComputeTarget  # noqa: E402
from azureml.core.conda_dependencies import CondaDependencies  # noqa: E402
from azureml.core.environment import DockerBuildContext  # noqa: E402
from azureml.core.image import ContainerImage  # noqa: E402
from azureml.core.model import InferenceConfig  # noqa: E402
from azureml.core.resource_configuration import ResourceConfiguration  # noqa: E402
from azureml.core.webservice import AksEndpoint, AksWebservice  # noqa: E402
from azureml.data import FileDataset  # noqa: E402
from azureml.exceptions import ComputeTargetException, UserErrorException, WebserviceException  # noqa: E402

CLIENT = "azureml-core"


def proves(operation, *behaviours):
    return pytest.mark.proves(CLIENT, operation, *behaviours)


def differs(call, how):
    return pytest.mark.differs(call, how)


@pytest.fixture(scope="session")
def auth(berth):
    return ServicePrincipalAuthentication(os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"])


@pytest.fixture(scope="session")
def ws(berth, auth):
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


# Models.


@pytest.fixture
def folder(tmp_path):
    """A folder of the test's own that is the working one: Model.register takes only what is below it."""
    with contextlib.chdir(tmp_path):
        yield tmp_path


def register(ws, name, **kwargs):
    path = pathlib.Path(f"{name}.txt")
    path.write_text(f"content of {name}")
    return Model.register(ws, str(path), name, **kwargs)


def api(ws, path):
    """What the API has, as it is."""
    from azureml._model_management._util import _get_mms_url

    request = urllib.request.Request(_get_mms_url(ws) + path, headers=ws._auth_object.get_authentication_header())
    with urllib.request.urlopen(request) as r:
        return json.load(r)


@proves("Model: framework, resources, tags, properties, and what serialize says of them", "D1")
def test_model_details(ws, folder, capsys):
    m = register(
        ws, "detailed", tags={"a": "1"}, properties={"p": "1"}, description="d", model_framework=Model.Framework.SCIKITLEARN, model_framework_version="1.7",
        resource_configuration=ResourceConfiguration(cpu=2, memory_in_gb=1.5, gpu=1),
    )
    m.update_tags_properties(add_tags={"b": "2"}, remove_tags=["a"], add_properties={"q": "2"})
    m.update(description="e", tags={"b": "3"}, resource_configuration=ResourceConfiguration(cpu=1, memory_in_gb=0.5))
    again = Model(ws, "detailed", tags=[["b", "3"]], properties=["p"], model_framework="ScikitLearn")
    said = again.serialize()
    assert (said["id"], said["framework"], said["frameworkVersion"], said["tags"], said["properties"]) == ("detailed:1", "ScikitLearn", "1.7", {"b": "3"}, {"p": "1", "q": "2"})
    assert said["resourceConfiguration"] == {"cpu": 1.0, "memoryInGB": 0.5, "gpu": None} and said["description"] == "e" and said["createdBy"]["userName"]
    assert (again.parent_id, again.derived_model_ids, again.unpack, again.mime_type) == (None, [], False, "application/json")
    assert Model.deserialize(ws, api(ws, "/models/detailed:1")).description == "e"
    urls = again.get_sas_urls()
    with urllib.request.urlopen(urls["detailed.txt"]) as r:
        assert r.read() == b"content of detailed"
    assert pathlib.Path(again.download("down")).read_text() == "content of detailed"
    with pytest.raises(WebserviceException, match="already exists"):
        again.download("down")
    assert pathlib.Path(Model.get_model_path("detailed", 1, _workspace=ws)).read_text() == "content of detailed"
    with pytest.raises(WebserviceException, match="immutable"):  # the client itself knows it
        again.add_properties({"p": "2"})
    with pytest.raises(WebserviceException, match="properties.p"):
        again.properties = {}
        again.add_properties({"p": "2"})
    again = Model(ws, id="detailed:1")
    again.add_properties({"r": "3"})
    again.add_tags({"c": "4"})
    again.remove_tags(["b"])
    assert (Model(ws, id="detailed:1").tags, Model(ws, id="detailed:1").properties) == ({"c": "4"}, {"p": "1", "q": "2", "r": "3"})


@proves("Model.register of parts of a folder", "D1")
def test_model_parts(ws, folder):
    for name in ("a.txt", "in/b.txt", "in/c.txt"):
        path = pathlib.Path("parts", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    m = Model.register(ws, "parts", "parts", child_paths=["a.txt", "in/b.txt"])
    assert set(m.get_sas_urls()) == {"parts/a.txt", "parts/in/b.txt"}
    got = pathlib.Path(m.download("down"))
    assert sorted(str(p.relative_to(got)) for p in got.rglob("*.txt")) == ["a.txt", "in/b.txt"]


@proves("Model.list with filters, over several pages", "D1")
def test_model_list(ws, folder):
    first = register(ws, "many", tags={"k": "1"}, properties={"p": "1"}, model_framework="Onnx")
    asset = first.url.rpartition("/")[2]
    for n in range(2, 26):
        Model._register_with_asset(ws, "many", asset, tags={"k": str(n)}, run_id="run_7" if n == 7 else None)

    def ids(**kwargs):
        return [m.id for m in Model.list(ws, **kwargs)]

    every = [f"many:{n}" for n in range(25, 0, -1)]
    assert ids(name="many", page_count=20) == every and ids(name="many") == every
    assert ids(name="many", latest=True) == ["many:25"]
    assert ids(name="many", tags=[["k", "9"]]) == ["many:9"] and ids(name="many", tags=["k"]) == every
    assert ids(properties=[["p", "1"]], name="many") == ["many:1"] and ids(name="many", model_framework="Onnx") == ["many:1"]
    assert ids(run_id="run_7") == ["many:7"] and ids(name="none") == [] and ids(dataset_id="none") == []


@proves("Model.register and update with data sets that are saved elsewhere", "D1")
@differs("Model.add_dataset_references", "the references are kept; there are no data sets to fetch for them, so Model.datasets is empty, with a warning")
@differs("Model.update", "sample data is kept as a reference; there are no data sets to fetch")
def test_model_datasets(ws, folder):
    class Saved(FileDataset):
        """What data sets need beside azureml-core to be saved is not installed, and Berth has no place for them."""

        def __init__(self, id):
            self.saved = id

        def _ensure_saved(self, workspace):
            return self.saved

    training, more = (Dataset(None, workspace=ws, name=n, id=str(uuid.uuid4())) for n in ("training", "more"))
    m = register(ws, "trained", datasets=[("training", training)], sample_input_dataset=Saved("in"), sample_output_dataset=Saved("out"))
    stored = api(ws, "/models/trained:1")
    assert stored["datasets"] == [{"name": "training", "id": training.id}]
    assert (stored["sampleInputData"], stored["sampleOutputData"]) == ("aml://dataset/in", "aml://dataset/out")
    assert [x.id for x in Model.list(ws, dataset_id=training.id)] == ["trained:1"]
    m.add_dataset_references([("more", more)])
    m.update(sample_input_dataset=Saved("other"))
    stored = api(ws, "/models/trained:1")
    assert {d["id"] for d in stored["datasets"]} == {training.id, more.id} and stored["sampleInputData"] == "aml://dataset/other"
    assert Model(ws, "trained").datasets == {}


def inference(**kwargs):
    source = pathlib.Path("source")
    source.mkdir(exist_ok=True)
    (source / "score.py").write_text("def init():\n    pass\n\ndef run(body):\n    return body\n")
    env = Environment("scoring")
    env.python.conda_dependencies = CondaDependencies.create(python_version="3.11", pip_packages=["azureml-defaults"])
    return InferenceConfig(entry_script="score.py", source_directory="source", environment=env, **kwargs)


@proves("Model.package and Model.profile refused by name")
@differs("Model.package", "refused by name: Model.deploy needs no package")
@differs("Model.profile", "refused by name; azureml-core asks for azureml-dataset-runtime before it sends anything")
def test_package_and_profile(ws, folder):
    m = register(ws, "packed")
    with pytest.raises(WebserviceException, match="Berth makes no packages"):
        Model.package(ws, [m], inference())
    with pytest.raises(UserErrorException, match="azureml-dataset-runtime"):
        Model.profile(ws, "profile", [m], inference(), None)
    assert ws.images == {} and Image.list(ws) == []


# Environments.


def packages(name, *pip):
    env = Environment(name)
    env.python.conda_dependencies = CondaDependencies.create(python_version="3.11", pip_packages=list(pip))
    return env


@proves("Environment.register, get, list, label, clone", "D1")
@differs("Environment.get", "there are no curated environments")
def test_environments(ws):
    first = packages("scikit", "scikit-learn==1.7.2").register(ws)
    assert (first.name, first.version) == ("scikit", "1")
    assert packages("scikit", "scikit-learn==1.7.2").register(ws).version == "1", "the same is no other version"
    second = packages("scikit", "scikit-learn==1.7.1").register(ws)
    assert second.version == "2"
    Environment.label(ws, "scikit", "1", ["stable"])
    assert Environment.get(ws, "scikit").version == Environment.get(ws, "scikit", label="latest").version == "2"
    for got in (Environment.get(ws, "scikit", version="1"), Environment.get(ws, "scikit", label="stable")):
        assert list(got.python.conda_dependencies.pip_packages) == ["scikit-learn==1.7.2"]
    assert Environment.list(ws)["scikit"].version and ws.environments["scikit"].name == "scikit"
    other = second.clone("other")
    other.environment_variables["A"] = "B"
    other = other.register(ws)
    assert (other.version, Environment.get(ws, "other").environment_variables["A"]) == ("1", "B")
    with pytest.raises(Exception, match="404") as e:
        Environment.get(ws, "scikit", version="9")
    assert "Environment.list" in str(e.value)
    with pytest.raises(Exception, match="no curated environments"):
        Environment.get(ws, "AzureML-Minimal")
    changed = packages("scikit", "scikit-learn==1.7.0")
    changed.version = "1"
    with pytest.raises(Exception, match="a version does not change"):
        changed.register(ws)


@proves("Environment.from_…, save_to_directory, load_from_directory, as they are registered", "D1")
@differs("Environment.from_existing_conda_environment", "it asks conda beside the client, and Berth for nothing")
@differs("Environment.add_private_pip_wheel", "the wheel is kept, but not installed: building an environment with it is refused by name. Publish it to an index. exist_ok is not asked for")
@differs("Environment.from_dockerfile", "registered, but not built: refused by name")
@differs("Environment.from_docker_build_context", "registered, but not built: refused by name")
def test_environments_from(ws, folder, monkeypatch):
    pathlib.Path("conda.yml").write_text("name: x\ndependencies:\n- python=3.11\n- pip:\n  - six==1.17.0\n")
    pathlib.Path("requirements.txt").write_text("six==1.17.0\nattrs\n")
    conda = Environment.from_conda_specification("of-conda", "conda.yml").register(ws)
    assert list(conda.python.conda_dependencies.pip_packages) == ["six==1.17.0"]
    pip = Environment.from_pip_requirements("of-pip", "requirements.txt", pip_version="25.0").register(ws)
    assert set(pip.python.conda_dependencies.pip_packages) == {"six==1.17.0", "attrs"}
    of_image = Environment.from_docker_image("of-image", "registry.test/base:1", pip_requirements="requirements.txt").register(ws)
    assert of_image.docker.base_image == "registry.test/base:1"
    assert Environment.from_dockerfile("of-dockerfile", "FROM scratch", conda_specification="conda.yml").register(ws).docker.base_dockerfile == "FROM scratch"
    context = DockerBuildContext(location_type="git", location="https://example.test/x.git")
    assert Environment.from_docker_build_context("of-context", context).register(ws).version == "1"
    conda.save_to_directory("saved")
    assert list(Environment.load_from_directory("saved").python.conda_dependencies.pip_packages) == ["six==1.17.0"]
    pathlib.Path("mine-1-py3-none-any.whl").write_bytes(b"PK")
    assert Environment.add_private_pip_wheel(ws, "mine-1-py3-none-any.whl").endswith("/azureml-private-packages/mine-1-py3-none-any.whl")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OSError):
        Environment.from_existing_conda_environment("of-mine", "base")


@proves("Environment.build_local refused by name; what get_image_details says of what was not built")
@differs("Environment.build_local", "refused by name: images are made without Docker and conda. Environment.build makes the image")
def test_environment_not_built(ws):
    env = packages("unbuilt", "six").register(ws)
    details = env.get_image_details(ws)
    assert not details.image_exist and details.interpreter_path == "python"
    with pytest.raises(Exception, match="Berth gives out no recipe"):
        env.build_local(ws)


# Web services. This cluster runs no pods, so deployments fail, and what they ask for is there nevertheless.


@pytest.fixture(scope="session")
def served(ws, created, tmp_path_factory):
    """A web service and the model in it."""
    with contextlib.chdir(tmp_path_factory.mktemp("served")):
        m = register(ws, "served", tags={"m": "1"})
        config = AksWebservice.deploy_configuration(cpu_cores=0.2, memory_gb=0.4, tags={"t": "1", "u": "2"}, properties={"p": "1"}, description="d", scoring_timeout_ms=1000, replica_max_concurrent_requests=2)
        return Model.deploy(ws, "served", [m], inference(), config, created), m


@proves("Model.deploy to a cluster without pods: what the client is told", "D1")
@differs("Model.deploy", "an environment is needed with an entry script: there is no default one")
def test_deployment_is_told(ws, created, served, folder, capsys):
    service, m = served
    with pytest.raises(WebserviceException, match="its provider is fake"):
        service.wait_for_deployment(show_output=True)
    assert "Failed" in capsys.readouterr().out
    service.update_deployment_state()
    assert service.state == "Failed" and "fake" in json.dumps(service.error)
    with pytest.raises(WebserviceException, match="fake"):
        service.get_logs()
    config = AksWebservice.deploy_configuration(cpu_cores=0.2, memory_gb=0.4, gpu_cores=1, num_replicas=2)
    config.print_deploy_configuration()
    assert "CPU requirement: 0.2" in capsys.readouterr().out
    Model.print_configuration([m], inference(), config, created)
    assert "Models: ['served:1']" in capsys.readouterr().out
    Webservice.check_for_existing_webservice(ws, "other")
    Webservice.check_for_existing_webservice(ws, "served", overwrite=True)
    with pytest.raises(WebserviceException, match="'served' exists"):
        Webservice.check_for_existing_webservice(ws, "served")
    with pytest.raises(WebserviceException, match="environmentImageRequest.environment"):
        Model.deploy(ws, "bare", [m], InferenceConfig(entry_script="score.py", source_directory="source"), config, created)


@proves("AksWebservice: its models, environment and settings, by name and by payload", "D1")
def test_service_details(ws, served):
    service = AksWebservice(ws, "served")
    assert type(Webservice(ws, "served")) is AksWebservice
    with pytest.raises(WebserviceException, match="not found"):
        Webservice(ws, "nothing")
    assert [m.id for m in service.models] == ["served:1"] and service.models[0].url.startswith("aml://asset/")
    assert service.environment.name == "scoring" and "AZUREML_ENTRY_SCRIPT" in service.environment.environment_variables
    said = service.serialize()
    assert (said["modelDetails"][0]["id"], said["environmentDetails"]["name"], said["computeName"], said["workspaceName"]) == ("served:1", "scoring", "created", ws.name)
    assert (said["containerResourceRequirements"]["cpu"], said["maxConcurrentRequestsPerContainer"], said["scoringTimeoutMs"], said["autoScaler"]["autoscaleEnabled"]) == (0.2, 2, 1000, True)
    assert AksWebservice.deserialize(ws, api(ws, "/services/served?expand=true")).serialize()["modelDetails"] == said["modelDetails"]
    assert all(len(k) == 32 for k in service.get_keys())
    for call in (service.get_token, service.get_access_token):
        with pytest.raises(WebserviceException, match="token_auth_enabled"):
            call()
    with pytest.raises(WebserviceException, match="scoring_uri unavailable"):
        service.run("{}")
    with pytest.raises(WebserviceException, match="served"):
        Model(ws, id="served:1").delete()


@proves("Webservice.list by every filter, over several pages", "D1")
@differs("Webservice.list", "there are no registered images, so nothing is found by one")
def test_service_list(ws, created, served, folder):
    def names(**kwargs):
        return {s.name for s in Webservice.list(ws, **kwargs)}

    for filters in (dict(compute_type="AKS"), dict(model_name="served"), dict(model_id="served:1"), dict(tags=["t", ["u", "2"]]), dict(properties=[["p", "1"]]), dict(compute_type="aks", model_id="served:1", tags=["t"])):
        assert names(**filters) == {"served"}, filters
    for filters in (dict(compute_type="AKSENDPOINT"), dict(compute_type="ACI"), dict(model_name="none"), dict(model_id="served:2"), dict(tags=[["u", "1"]]), dict(properties=["q"]), dict(image_name="x"), dict(image_id="x:1"), dict(image_digest="sha256:x")):
        assert names(**filters) == set(), filters
    assert set(ws.webservices) == {"served"}


@proves("AksWebservice.update, add_tags, remove_tags, add_properties", "D1")
def test_service_changes(ws, served):
    service = AksWebservice(ws, "served")

    def settle():
        with pytest.raises(WebserviceException, match="fake"):
            service.wait_for_deployment()

    service.add_tags({"v": "3"})
    settle()
    service.remove_tags(["u"])
    settle()
    service.add_properties({"q": "2"})
    settle()
    service.update(autoscale_enabled=False, num_replicas=2, cpu_cores=0.3, cpu_cores_limit=0.4, memory_gb_limit=1, max_request_wait_time=100, period_seconds=3, timeout_seconds=4, enable_app_insights=True, description="e")
    settle()
    again = AksWebservice(ws, "served")
    assert (again.tags, again.properties["q"], again.properties["p"], again.description, again.num_replicas) == ({"t": "1", "v": "3"}, "2", "1", "e", 2)
    needs, probe = again.container_resource_requirements, again.liveness_probe_requirements
    assert (needs.cpu, needs.cpu_limit, needs.memory_in_gb_limit, again.max_request_wait_time, probe.period_seconds, probe.timeout_seconds) == (0.3, 0.4, 1, 100, 3, 4)
    for refused, word in ((dict(namespace="mine"), "namespace"), (dict(collect_model_data=True), "storageEnabled"), (dict(properties={"p": "2"}), "properties.p")):
        with pytest.raises(WebserviceException, match=word):
            service.update(**refused)
    with pytest.raises(WebserviceException, match="does not move"):
        service.update(is_migration=True, compute_target="elsewhere")


@proves("Webservice.deploy, deploy_from_model, deploy_from_image: images of before environments, refused by name")
@differs("Webservice.deploy", "refused by name: give an InferenceConfig with an Environment to Model.deploy")
@differs("Webservice.deploy_from_model", "refused by name: give an InferenceConfig with an Environment to Model.deploy")
@differs("Webservice.deploy_from_image", "refused by name: give an InferenceConfig with an Environment to Model.deploy")
@differs("Webservice.deploy_local_from_model", "it takes Docker beside the client, and asks Berth for models alone")
def test_legacy_deployments(ws, created, served, folder, monkeypatch):
    _, m = served
    pathlib.Path("score.py").write_text("def init():\n    pass\n\ndef run(body):\n    return body\n")
    old = ContainerImage.image_configuration(execution_script="score.py", runtime="python")
    config = AksWebservice.deploy_configuration()
    with pytest.raises(WebserviceException, match="Berth registers no images"):
        Webservice.deploy_from_model(ws, "legacy", [m], old, config, created)
    with pytest.raises(WebserviceException, match="Berth registers no images"):
        Webservice.deploy(ws, "legacy", ["score.py"], old, config, created)
    image = types.SimpleNamespace(creation_state="Succeeded", image_flavor="WebApiContainer", id="legacy:1")
    with pytest.raises(WebserviceException, match="imageId"):
        Webservice.deploy_from_image(ws, "legacy", image, config, created)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nothing")
    with pytest.raises(Exception, match="(?i)docker"):
        Webservice.deploy_local_from_model(ws, "legacy", [m], old)
    assert "legacy" not in ws.webservices


@proves("AksEndpoint: versions with tags of their own, tokens, keys", "D2")
@differs("AksEndpoint.update", "azureml-core 1.61 itself raises TypeError before it sends anything")
@differs("AksEndpoint.add_tags", "azureml-core 1.61 itself raises TypeError before it sends anything")
@differs("AksEndpoint.remove_tags", "azureml-core 1.61 itself raises TypeError before it sends anything")
@differs("AksEndpoint.add_properties", "azureml-core 1.61 itself raises TypeError before it sends anything")
@differs("AksEndpoint.create_version", "with cpu_cores or memory_gb azureml-core 1.61 itself raises AttributeError; update_version takes them")
def test_endpoint(ws, created, served, folder):
    _, m = served
    config = AksEndpoint.deploy_configuration(
        version_name="one", traffic_percentile=60, tags={"t": "1"}, properties={"p": "1"}, description="d", auth_enabled=False, token_auth_enabled=True, cpu_cores=0.2, memory_gb=0.4, num_replicas=1, autoscale_enabled=False,
    )
    endpoint = Model.deploy(ws, "split", [m], inference(), config, created)

    def settle():
        with pytest.raises(WebserviceException, match="fake"):
            endpoint.wait_for_deployment()

    settle()
    assert (endpoint.tags, endpoint.properties["p"], endpoint.description) == ({"t": "1"}, "1", "d")
    assert (endpoint.versions["one"].tags, endpoint.versions["one"].is_default, endpoint.versions["one"].traffic_percentile) == ({"t": "1"}, True, 60)
    endpoint.create_version("two", models=[m], inference_config=inference(), tags={"v": "2"}, properties={"q": "2"}, description="second", traffic_percentile=10)
    settle()
    two = endpoint.versions["two"]
    assert (two.tags, two.properties["q"], two.description, two.is_default, two.version_type) == ({"v": "2"}, "2", "second", False, "Treatment")
    endpoint.update_version("two", tags={"w": "3"}, cpu_cores=0.3, memory_gb=0.6, is_default=True, is_control_version_type=True, autoscale_enabled=True, autoscale_max_replicas=3, description="changed")
    settle()
    one, two = endpoint.versions["one"], endpoint.versions["two"]
    assert (two.tags, two.is_default, two.version_type, one.is_default, one.version_type, one.tags) == ({"w": "3"}, True, "Control", False, "Treatment", {"t": "1"})
    assert (two.container_resource_requirements.cpu, two.autoscaler.max_replicas, two.description) == (0.3, 3, "changed")
    said = AksEndpoint(ws, "split").serialize()
    assert said["versions"]["two"]["tags"] == {"w": "3"} and said["versions"]["one"]["modelDetails"][0]["id"] == "served:1"
    assert AksEndpoint.deserialize(ws, api(ws, "/services/split?expand=true")).serialize() == said
    endpoint.update_deployment_state()
    assert endpoint.state == "Failed"
    assert [(type(s), s.name) for s in Webservice.list(ws, compute_type="AKSENDPOINT", model_id="served:1")] == [(AksEndpoint, "split")]
    token = endpoint.get_access_token()
    assert token.token_type == "Bearer" and token.refresh_after < token.expiry_on and endpoint.get_token()[0]
    assert len(set(endpoint.get_keys())) == 2
    with pytest.raises(WebserviceException, match="scoring_uri unavailable"):
        endpoint.run("{}")
    for call in (lambda: endpoint.update(description="x"), lambda: endpoint.add_tags({"a": "1"}), lambda: endpoint.remove_tags(["t"]), lambda: endpoint.add_properties({"a": "1"})):
        with pytest.raises(TypeError):
            call()
    endpoint.delete_version("one")
    settle()
    assert set(endpoint.versions) == {"two"}
    endpoint.delete()
    assert "split" not in ws.webservices


@proves("AksWebservice.delete, and then Model.delete", "D1")
def test_service_deleted(ws, served):
    service, m = served
    service = AksWebservice(ws, "served")
    service.delete()
    assert "served" not in ws.webservices
    m.delete()
    with pytest.raises(WebserviceException, match="ModelNotFound"):
        Model(ws, id="served:1")
    service.delete()  # there is nothing left, and that is no error


@proves("AksCompute.delete", "A6")
def test_delete_created(ws, created):
    created.delete()
    gone(ws, "created")
