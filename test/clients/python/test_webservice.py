"""azureml-core as published deploys models to a real cluster: the whole surface of AksWebservice
and AksEndpoint, and what happens when things go wrong. Needs root and what `make build` makes."""

import contextlib
import json
import os
import pathlib
import pickle
import signal
import socket
import ssl
import textwrap
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException

import pytest

azureml = pytest.importorskip("azureml.core")
from azureml.core import Environment, Model, Webservice, Workspace  # noqa: E402
from azureml.core.authentication import ServicePrincipalAuthentication  # noqa: E402
from azureml.core.compute import AksCompute, ComputeTarget  # noqa: E402
from azureml.core.compute.aks import AksUpdateConfiguration, SslConfiguration  # noqa: E402
from azureml.core.conda_dependencies import CondaDependencies  # noqa: E402
from azureml.core.model import InferenceConfig  # noqa: E402
from azureml.core.resource_configuration import ResourceConfiguration  # noqa: E402
from azureml.core.webservice import AksEndpoint, AksWebservice  # noqa: E402
from azureml.exceptions import ComputeTargetException, WebserviceException  # noqa: E402

CLIENT = "azureml-core"
GROUP, WORKSPACE, COMPUTE = "serve-rg", "serve-ws", "serving"
SERVER = "azureml-inference-server-http"


def proves(operation, *behaviours):
    return pytest.mark.proves(CLIENT, operation, *behaviours)


# The state of the tests' world: one Berth with one production cluster of three nodes, for all of them.


@pytest.fixture(scope="session")
def ws(serving_berth):
    auth = ServicePrincipalAuthentication(os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"])
    return Workspace.get(WORKSPACE, auth=auth, subscription_id=os.environ["AZURE_SUBSCRIPTION_ID"], resource_group=GROUP)


@pytest.fixture(scope="session")
def compute(serving_berth, ws):
    berth = serving_berth
    berth.cli("aks", "create", "-n", "cluster", "-g", GROUP, "-c", "3", "-s", "Standard_D3_v2")
    config = AksCompute.attach_configuration(resource_group=GROUP, cluster_name="cluster", cluster_purpose=AksCompute.ClusterPurpose.FAST_PROD)
    target = ComputeTarget.attach(ws, COMPUTE, config)
    target.wait_for_completion()
    berth.cli("aks", "get-credentials", "-n", "cluster", "-g", GROUP, "--admin", "-f", berth.kubeconfig)
    return target


@pytest.fixture(scope="session")
def kubectl(serving_berth, compute):
    name = serving_berth.kubectl("get", "namespaces", "-l", "berth.dev/installation", "-o", "jsonpath={.items[0].metadata.name}")
    return lambda *args: serving_berth.kubectl("-n", name, *args)


class Sources:
    """Makes models and entry scripts in a folder of the test's own, which is also the working one:
    Model.register takes only what is below it."""

    def __init__(self, ws, folder):
        self.ws, self.folder = ws, folder

    def model(self, name, content, **kwargs):
        path = pathlib.Path(name)
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
        return Model.register(self.ws, model_path=name, model_name=name.partition(".")[0], **kwargs)

    def inference(self, script, packages=(SERVER,), variables=None, python="3.11", **kwargs):
        source = pathlib.Path("source")
        source.mkdir(exist_ok=True)
        (source / "score.py").write_text(textwrap.dedent(script))
        env = Environment("plain")
        env.python.conda_dependencies = CondaDependencies.create(python_version=python, pip_packages=list(packages))
        env.environment_variables.update(variables or {})
        return InferenceConfig(entry_script="score.py", source_directory="source", environment=env, **kwargs)


@pytest.fixture
def sources(ws, tmp_path):
    with contextlib.chdir(tmp_path):
        yield Sources(ws, tmp_path)


ECHO = """
    import json, os

    def init():
        with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], os.environ.get("MODEL_FILE", "echo.txt"))) as f:
            global said
            said = f.read()
        print("init is done")

    def run(body):
        return {"model": said, "got": json.loads(body)}
"""


def small(**kwargs):
    options = dict(cpu_cores=0.1, memory_gb=0.3, num_replicas=1, autoscale_enabled=False)
    options.update(kwargs)
    if options.get("autoscale_enabled"):
        options.pop("num_replicas")
    return AksWebservice.deploy_configuration(**options)


def deploy(ws, name, models, inference, config=None, wait=True, **kwargs):
    service = Model.deploy(ws, name, models, inference, config or small(), ws.compute_targets[COMPUTE], **kwargs)
    if wait:
        service.wait_for_deployment()
        assert service.state == "Healthy", service.serialize()
    return service


DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def http(uri, body=b"{}", key=None, method="POST", headers=None, timeout=30):
    """One plain request: status, headers, body. Not through Berth's proxy."""
    request = urllib.request.Request(uri, body if method == "POST" else None, {"Content-Type": "application/json", **(headers or {})}, method=method)
    if key:
        request.add_header("Authorization", "Bearer " + key)
    try:
        with DIRECT.open(request, timeout=timeout) as r:
            return r.status, r.headers, r.read()
    except urllib.error.HTTPError as e:
        return e.code, e.headers, e.read()


def until(condition, what, patience=60):
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"after {patience} s it is not so that {what}"
        time.sleep(0.1)


def said(answer):
    """An answer's status, who gave it, and why, if the router did."""
    status, headers, _ = answer
    return status, headers.get("x-berth-answered-by"), headers.get("x-berth-reason")


# What the router says for a request that was in a pod, or in a front end, that ended.
CUT = ((502, "router", "ReplicaClosedConnection"), (502, "router", "FrontEndClosedConnection"))

# A front end that is killed takes a moment to end, and in it a client who asks again at once may lose the request that is in it, one that another
# front end passes on to it, and one whose connection the machine takes before the listening socket is closed. No front end can spare it
# the last one: balancers learn too late.
CUT_BY_FRONT_END = 3


class Load:
    """Requests that go on while something happens. Entering waits for the first answer."""

    def __init__(self, uri, key, clients=2, body=b'"x"', pause=0):
        self.answers, self.stop, self.pause = [], threading.Event(), pause
        self.threads = [threading.Thread(target=self.send, args=(uri, key, body), daemon=True) for _ in range(clients)]

    def send(self, uri, key, body):
        while not self.stop.wait(self.pause):
            try:
                self.answers.append(http(uri, body, key))
            except (OSError, HTTPException) as e:  # a connection that broke is a lost request, too
                self.answers.append((type(e).__name__, {}, str(e).encode()))

    def __enter__(self):
        for t in self.threads:
            t.start()
        until(lambda: self.answers, "the first request is answered")
        return self

    def __exit__(self, *_):
        self.stop.set()
        for t in self.threads:
            t.join()

    def lost(self, since=0):
        return [(status, {k.lower(): v for k, v in headers.items()}, body[:200]) for status, headers, body in self.answers[since:] if status != 200]

    def more(self, count=20):
        """Waits until requests that begin now are answered."""
        so_far = len(self.answers)
        until(lambda: len(self.answers) >= so_far + count, "requests go on")


@pytest.fixture(scope="session")
def bystander(ws, compute, tmp_path_factory):
    """Requests to a web service that has nothing to do with what the tests do."""
    with contextlib.chdir(tmp_path_factory.mktemp("bystander")):
        s = Sources(ws, None)
        service = deploy(ws, "bystander", [s.model("bystander.txt", b"here")], s.inference(ECHO, variables={"MODEL_FILE": "bystander.txt"}), small(num_replicas=2))
    with Load(service.scoring_uri, service.get_keys()[0], clients=1, pause=0.05) as load:
        yield load


@pytest.fixture
def undisturbed(bystander):
    """The test disturbs no other web service. Where it kills what a request of that may be in, it says so."""
    class Allowed:
        cut = 0

    before = len(bystander.answers)
    yield Allowed
    bystander.more(2)
    lost = bystander.lost(before)
    assert len(lost) <= Allowed.cut, f"another web service was disturbed: {lost}"


# Models.


@proves("Model.register, list, tags, update, download, delete", "D1")
def test_models(ws, sources):
    first = sources.model("plain.txt", b"one", tags={"kind": "test"}, properties={"made": "here"}, description="a text")
    second = sources.model("plain.txt", b"two", tags={"kind": "test", "best": "yes"})
    assert (first.version, second.version) == (1, 2)
    assert Model(ws, "plain").version == 2
    assert Model(ws, "plain", version=1).description == "a text"
    assert Model(ws, id="plain:1").properties["made"] == "here"
    assert {m.id for m in Model.list(ws, name="plain")} == {"plain:1", "plain:2"}
    assert [m.id for m in Model.list(ws, name="plain", latest=True)] == ["plain:2"]
    assert [m.id for m in Model.list(ws, tags=[["best", "yes"]])] == ["plain:2"]
    assert [m.id for m in Model.list(ws, properties=["made"])] == ["plain:1"]
    first.add_tags({"seen": "1"})
    first.remove_tags(["kind"])
    first.add_properties({"more": "x"})
    first.update(description="another text")
    first = Model(ws, id="plain:1")
    assert (first.tags, first.description, first.properties["more"]) == ({"seen": "1"}, "another text", "x")
    assert pathlib.Path(first.download("down", exist_ok=True)).read_bytes() == b"one"
    assert first.get_sas_urls()
    first.delete()
    with pytest.raises(WebserviceException, match="ModelNotFound"):
        Model(ws, id="plain:1")
    with pytest.raises(WebserviceException, match="ModelNotFound"):
        Model(ws, "never-registered")


@proves("Model.register of a folder, with framework and resources", "D1")
def test_model_folder(ws, sources):
    pathlib.Path("folder/inner").mkdir(parents=True)
    pathlib.Path("folder/a.txt").write_text("a")
    pathlib.Path("folder/inner/b.txt").write_text("b")
    m = Model.register(ws, "folder", "folder", model_framework=Model.Framework.CUSTOM, resource_configuration=ResourceConfiguration(cpu=1, memory_in_gb=0.5))
    got = pathlib.Path(m.download("down"))
    assert (got / "inner" / "b.txt").read_text() == "b"
    assert (got / "a.txt").read_text() == "a"
    again = Model(ws, "folder")
    assert (again.model_framework, again.resource_configuration.memory_in_gb) == ("Custom", 0.5)


# One web service's life.


@pytest.fixture(scope="module")
def echo(ws, compute, tmp_path_factory):
    with contextlib.chdir(tmp_path_factory.mktemp("echo")):
        s = Sources(ws, None)
        model = s.model("echo.txt", b"one")
        service = deploy(ws, "echo", [model], s.inference(ECHO), small(tags={"t": "1"}, properties={"p": "1"}, description="an echo"))
    return service


@proves("Model.deploy, AksWebservice.run", "D1", "D4")
def test_run(echo):
    assert echo.run(json.dumps({"a": 1})) == {"model": "one", "got": {"a": 1}}
    assert (echo.compute_type, echo.tags, echo.properties["p"], echo.description) == ("AKS", {"t": "1"}, "1", "an echo")
    assert echo.scoring_uri.endswith("/api/v1/service/echo/score")


@proves("plain HTTP with keys: statuses and who answered", "D1")
def test_plain_http(echo):
    primary, secondary = echo.get_keys()
    for key in (primary, secondary):
        status, headers, body = http(echo.scoring_uri, b'"x"', key)
        assert (status, json.loads(body)["got"]) == (200, "x")
        assert headers["x-ms-run-function-failed"] == "False"
    for answer in (http(echo.scoring_uri, key="wrong"), http(echo.scoring_uri), http(echo.scoring_uri, key=primary + secondary)):
        assert said(answer) == (401, "router", "Unauthorized")
        assert primary not in answer[2].decode()
    assert said(http(echo.scoring_uri.replace("/echo/", "/nothere/"), key=primary)) == (404, "router", "UnknownService")
    assert said(http(echo.scoring_uri, key=primary, method="PUT")) == (405, "router", "MethodNotAllowed")
    answer = http(echo.scoring_uri, b"no json", primary)
    assert said(answer) == (502, "model", "ModelError") and answer[1]["x-ms-run-function-failed"] == "True", "run() raised"
    assert said(http(echo.scoring_uri.removesuffix("/score"), key=primary, method="GET")) == (200, "model", None), "its health"
    status, headers, _ = http(echo.scoring_uri, headers={"x-ms-request-id": "mine"}, body=b'"x"', key=primary)
    assert (status, headers["x-ms-request-id"]) == (200, "mine")


@proves("AksWebservice.swagger_uri", "D1")
def test_swagger(echo):
    primary, _ = echo.get_keys()
    status, _, body = http(echo.swagger_uri, key=primary, method="GET")
    assert status == 200 and "/score" in json.dumps(json.loads(body)["paths"])


@proves("AksWebservice.get_logs", "D1")
def test_logs(echo):
    logs = echo.get_logs()
    assert "init is done" in logs
    assert len(echo.get_logs(num_lines=1).splitlines()) == 1


@proves("AksWebservice.regen_key", "D1")
def test_regen_key(echo):
    primary, secondary = echo.get_keys()
    echo.regen_key("Primary")
    new, same = echo.get_keys()
    assert new != primary and same == secondary
    until(lambda: http(echo.scoring_uri, key=primary)[0] == 401, "the old key is refused")
    assert http(echo.scoring_uri, key=new)[0] == 200
    echo.regen_key("Secondary", set_key="a key of my own choice")
    assert echo.get_keys() == (new, "a key of my own choice")
    until(lambda: http(echo.scoring_uri, key="a key of my own choice")[0] == 200, "the chosen key is accepted")


@proves("Webservice.list with filters", "D1")
def test_list(ws, echo):
    def names(**kwargs):
        return [s.name for s in Webservice.list(ws, **kwargs)]

    assert "echo" in names()
    assert "echo" in names(compute_type="AKS")
    assert names(compute_type="ACI") == []
    assert names(model_name="echo") == ["echo"]
    assert names(model_id="echo:1") == ["echo"]
    assert names(model_id="echo:99") == []
    assert names(tags=["t"]) == ["echo"]
    assert names(tags=[["t", "2"]]) == []
    assert names(properties=[["p", "1"]]) == ["echo"]
    assert "echo" in ws.webservices


@proves("AksWebservice.add_tags, remove_tags, add_properties, serialize", "D1")
def test_tags(ws, echo):
    for change in (lambda: echo.add_tags({"more": "x"}), lambda: echo.remove_tags(["t"]), lambda: echo.add_properties({"q": "2"})):
        change()
        echo.wait_for_deployment()  # until then it is Transitioning, and takes no other change
    again = Webservice(ws, "echo")
    assert again.tags == {"more": "x"} and again.properties["q"] == "2"
    assert again.serialize()["state"] == "Healthy"
    for change in (lambda: echo.remove_tags(["more"]), lambda: echo.add_tags({"t": "1"})):
        change()
        echo.wait_for_deployment()


@proves("Model.delete is refused while a service uses it, with its name", "D1")
def test_model_in_use(ws, echo):
    with pytest.raises(WebserviceException, match="echo"):
        Model(ws, id="echo:1").delete()


@proves("AksCompute.detach is refused while a service runs on it", "A6")
def test_compute_in_use(ws, echo):
    with pytest.raises(ComputeTargetException, match="echo"):
        ws.compute_targets[COMPUTE].detach()


@proves("Model.deploy of a name that exists", "D1")
def test_deploy_again(ws, echo, sources):
    with pytest.raises(WebserviceException, match="(?i)exist"):
        deploy(ws, "echo", [Model(ws, "echo")], sources.inference(ECHO), wait=False)
    keys = echo.get_keys()
    service = deploy(ws, "echo", [Model(ws, "echo")], sources.inference(ECHO), small(tags={"t": "1"}, properties={"p": "1"}), overwrite=True)
    assert service.get_keys() == keys, "deploying again does not lock callers out"


@proves("AksWebservice.update of model, image and resources, no request lost", "D1")
def test_update(ws, echo, sources, kubectl):
    primary, _ = echo.get_keys()
    with Load(echo.scoring_uri, primary) as load:
        second = sources.model("echo.txt", b"two")
        echo.update(models=[second], inference_config=sources.inference(ECHO, variables={"A": "B"}), cpu_cores=0.2, memory_gb=0.4, num_replicas=2, description="changed")
        echo.wait_for_deployment()
        assert echo.run('"x"')["model"] == "two"
        echo.update(num_replicas=1)
        echo.wait_for_deployment()
    assert load.lost() == []
    assert {json.loads(a[2])["model"] for a in load.answers} == {"one", "two"}
    spec = json.loads(kubectl("get", "deployment", "echo", "-o", "json"))["spec"]
    container = spec["template"]["spec"]["containers"][0]
    assert spec["replicas"] == 1 and container["resources"]["requests"]["cpu"] == "200m"
    assert {"name": "A", "value": "B"} in container["env"]


@proves("production clusters have three front ends, on three nodes", "D1")
def test_front_ends(compute, kubectl):
    pods = json.loads(kubectl("get", "pods", "-l", "app=azureml-fe", "-o", "json"))["items"]
    assert len(pods) == 3 and len({p["spec"]["nodeName"] for p in pods}) == 3


@proves("pods run under the Restricted pod security standard; a node fetches an image once", "D1")
def test_pod(echo, kubectl):
    pod = json.loads(kubectl("get", "pods", "-l", "berth.dev/service=echo", "-o", "json"))["items"][0]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert container["securityContext"]["readOnlyRootFilesystem"] and container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert not pod["automountServiceAccountToken"]
    with pytest.raises(RuntimeError, match="PodSecurity"):
        kubectl("run", "free", "--image=none", "--privileged", "--dry-run=server")
    fetched = {}
    for e in json.loads(kubectl("get", "events", "--field-selector", "reason=Pulled", "-o", "json"))["items"]:
        if "Successfully pulled" in e["message"]:
            at = (e["source"].get("host") or e["reportingInstance"], e["message"].split('"')[1])
            fetched[at] = fetched.get(at, 0) + (e.get("count") or 1)
    models = {v["image"]["reference"] for v in pod["volumes"] if "image" in v}
    assert models <= {image for _, image in fetched}
    assert set(fetched.values()) == {1}, fetched


@proves("AksWebservice.update to tokens, get_access_token", "D1")
def test_tokens(ws, echo):
    primary, _ = echo.get_keys()
    with pytest.raises(Exception):
        echo.get_access_token()
    echo.update(auth_enabled=False, token_auth_enabled=True)
    echo.wait_for_deployment()
    token = echo.get_access_token()
    until(lambda: http(echo.scoring_uri, key=token.access_token)[0] == 200, "the token is accepted")
    assert token.refresh_after < token.expiry_on and echo.get_token()[0]
    assert http(echo.scoring_uri, key=primary)[0] == 401
    assert http(echo.scoring_uri, key=token.access_token[:-4] + "AAAA")[0] == 401
    assert echo.run('"x"')["got"] == "x", "run() fetches a token by itself"
    echo.update(auth_enabled=True, token_auth_enabled=False)
    echo.wait_for_deployment()
    until(lambda: http(echo.scoring_uri, key=primary)[0] == 200, "keys work again")


@proves("AksWebservice.update to autoscaling", "D3")
def test_autoscale(ws, echo, kubectl):
    def replicas():
        return json.loads(kubectl("get", "deployment", "echo", "-o", "json"))["status"].get("availableReplicas", 0)

    echo.update(autoscale_enabled=True, autoscale_min_replicas=1, autoscale_max_replicas=3, autoscale_target_utilization=50, max_request_wait_time=20000)
    echo.wait_for_deployment()
    assert echo.autoscaler.max_replicas == 3
    primary, _ = echo.get_keys()
    with Load(echo.scoring_uri, primary, clients=4) as load:
        until(lambda: replicas() == 3, "the load makes three replicas")
    assert load.lost() == []
    echo.update(autoscale_enabled=False, num_replicas=1)
    echo.wait_for_deployment()
    until(lambda: replicas() == 1, "one is left")


@proves("a web service that sleeps is woken by a request", "D3")
def test_scale_from_zero(serving_berth, echo, kubectl):
    berth = serving_berth
    berth.cli("ml", "service", "update", "-n", "echo", "-g", GROUP, "-w", WORKSPACE, "--autoscale-enabled", "true", "--autoscale-min-replicas", "0", "--autoscale-max-replicas", "1")
    kubectl("scale", "deployment", "echo", "--replicas=0")  # what ten minutes without a request do
    until(lambda: not kubectl("get", "pods", "-l", "berth.dev/service=echo", "-o", "name"), "it sleeps")
    primary, _ = echo.get_keys()
    assert said(http(echo.scoring_uri, b'"x"', primary)) == (200, "model", None)
    echo.update(autoscale_enabled=False, num_replicas=1)
    echo.wait_for_deployment()


# Kinds of entry scripts and models.


@proves("AMLRequest and AMLResponse; what a script finds in its container", "D1")
def test_raw_http(ws, compute, sources):
    pathlib.Path("layout/inner").mkdir(parents=True)
    pathlib.Path("layout/inner/b.txt").write_text("b")
    pathlib.Path("layout/a.txt").write_text("a")
    model = Model.register(ws, "layout", "layout")
    service = deploy(ws, "raw", [model], sources.inference("""
        import contextlib, glob, json, os

        from azureml.contrib.services.aml_request import AMLRequest, rawhttp
        from azureml.contrib.services.aml_response import AMLResponse

        def init():
            pass

        @rawhttp
        def run(request):
            if request.args.get("q") == "world":
                return AMLResponse(world(), 200, json_str=True)
            if request.method == "GET":
                return AMLResponse("got " + request.args["q"], 200)
            return AMLResponse(request.get_data(False)[::-1], 418, {"x-mine": "yes"})

        def world():
            root, can = os.environ["AZUREML_MODEL_DIR"], []
            for folder in ("/", "/tmp", os.environ["AML_APP_ROOT"], root):
                with contextlib.suppress(OSError), open(os.path.join(folder, "written"), "w"):
                    can.append(folder)
            return {
                "root": root, "files": sorted(os.path.relpath(f, root) for f in glob.glob(root + "/**", recursive=True) if os.path.isfile(f)),
                "user": os.getuid(), "writes": can, "token": os.path.exists("/var/run/secrets/kubernetes.io"), "colour": os.environ["COLOUR"],
                "privileges": [l.split()[1] for l in open("/proc/self/status") if l.startswith(("CapEff", "NoNewPrivs", "Seccomp:"))],
            }
    """, packages=[SERVER], variables={"COLOUR": "blue"}))
    primary, _ = service.get_keys()
    world = json.loads(http(service.scoring_uri + "?q=world", key=primary, method="GET")[2])
    assert world == {
        "root": "/var/azureml-app/azureml-models/layout/1", "files": ["layout/a.txt", "layout/inner/b.txt"], "user": 1000, "writes": ["/tmp"], "token": False, "colour": "blue",
        "privileges": ["0000000000000000", "1", "2"],
    }
    assert http(service.scoring_uri + "?q=it", key=primary, method="GET")[::2] == (200, b"got it")
    status, headers, body = http(service.scoring_uri, b"abc", primary)
    assert (status, headers["x-mine"], body) == (418, "yes", b"cba")
    service.delete()


@proves("inference-schema and swagger.json", "D1")
def test_inference_schema(ws, compute, sources):
    model = sources.model("echo.txt", b"schema")
    service = deploy(ws, "schema", [model], sources.inference("""
        import numpy as np
        from inference_schema.schema_decorators import input_schema, output_schema
        from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType

        def init():
            pass

        @input_schema("data", NumpyParameterType(np.array([[1.0, 2.0]])))
        @output_schema(NumpyParameterType(np.array([3.0])))
        def run(data):
            return data.sum(axis=1).tolist()
    """, packages=[SERVER, "inference-schema[numpy-support]"]))
    assert service.run(json.dumps({"data": [[1, 2], [3, 4]]})) == [3.0, 7.0]
    primary, _ = service.get_keys()
    _, _, body = http(service.swagger_uri, key=primary, method="GET")
    assert json.loads(body)["definitions"]["ServiceInput"]["properties"]["data"]["type"] == "array"
    assert said(http(service.scoring_uri, b'{"other": 1}', primary)) == (400, "model", None), "input that breaks the schema"
    service.delete()


@proves("no-code deployment of a scikit-learn model", "D1")
def test_no_code(ws, compute, sources):
    import sklearn
    from sklearn.linear_model import LinearRegression

    model = sources.model("line.pkl", LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0]), model_framework=Model.Framework.SCIKITLEARN, model_framework_version=sklearn.__version__)
    service = Model.deploy(ws, "line", [model], deployment_config=small(), deployment_target=ws.compute_targets[COMPUTE])
    service.wait_for_deployment()
    answer = service.run(json.dumps({"data": [[2.0]]}))
    assert abs(answer["predict"][0] - 5) < 1e-9 if isinstance(answer, dict) else abs(answer[0] - 5) < 1e-9
    service.delete()


def onnx_negation():
    """An ONNX model of one operation, y = -x. Its format is protocol buffers: fields with a number and a value."""
    def field(number, value):
        if isinstance(value, int):
            return bytes([number << 3, value])
        value = value.encode() if isinstance(value, str) else value
        return bytes([number << 3 | 2, len(value)]) + value

    def tensor(name):
        return field(1, name) + field(2, field(1, field(1, 1)))  # of floats

    node = field(1, "x") + field(2, "y") + field(4, "Neg")
    graph = field(1, node) + field(2, "g") + field(11, tensor("x")) + field(12, tensor("y"))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


@proves("no-code deployment of an ONNX model", "D1")
def test_no_code_onnx(ws, compute, sources):
    model = sources.model("negation.onnx", onnx_negation(), model_framework=Model.Framework.ONNX, model_framework_version="1.8")
    service = Model.deploy(ws, "negation", [model], deployment_config=small(), deployment_target=ws.compute_targets[COMPUTE])
    service.wait_for_deployment()
    assert service.run(json.dumps({"data": [[1.0, 2.0]]})) == {"y": [[-1.0, -2.0]]}
    service.delete()


@proves("several models below AZUREML_MODEL_DIR, a script with modules beside it", "D1")
def test_several_models(ws, compute, sources):
    a, b = sources.model("one.txt", b"1"), sources.model("two.txt", b"2")
    inference = sources.inference("""
        import glob, os
        import helper

        def init():
            pass

        def run(body):
            root = os.environ["AZUREML_MODEL_DIR"]
            return helper.names(root, glob.glob(root + "/*/*/*"))
    """)
    pathlib.Path("source/helper.py").write_text("import os\ndef names(root, found):\n    return sorted(os.path.relpath(f, root) for f in found)\n")
    service = deploy(ws, "several", [a, b], inference)
    assert service.run("{}") == ["one/1/one.txt", "two/1/two.txt"]
    service.delete()


# Environments.


@proves("Environment.build, get_log, wait_for_completion, get_image_details; a definition that cannot be built", "D4")
def test_environment_build(ws, sources, capsys):
    env = Environment("built")
    env.python.conda_dependencies = CondaDependencies.create(python_version="3.11", pip_packages=[SERVER])
    env = env.register(ws)
    assert not env.get_image_details(ws).image_exist
    build = env.build(ws)
    build.wait_for_completion(show_output=True)
    assert build.status == "Succeeded", build.get_log()
    assert "The image is there." in build.get_log()
    details = env.get_image_details(ws)
    assert details.image_exist and details.repository and details.registry
    broken = Environment.from_dockerfile("broken", "FROM scratch").register(ws).build(ws)
    broken.wait_for_completion(show_output=False)
    assert broken.status == "Failed" and "Dockerfile" in broken.get_log()


# Endpoints with versions.


@proves("AksEndpoint: versions, traffic, default, update, delete", "D2")
def test_endpoint(ws, compute, sources):
    inference = sources.inference(ECHO)
    one = sources.model("echo.txt", b"first")
    config = AksEndpoint.deploy_configuration(cpu_cores=0.1, memory_gb=0.3, autoscale_enabled=False, num_replicas=1, version_name="one", traffic_percentile=100)
    endpoint = Model.deploy(ws, "many", [one], inference, config, ws.compute_targets[COMPUTE])
    endpoint.wait_for_deployment()
    assert endpoint.state == "Healthy"
    assert endpoint.run('"x"')["model"] == "first"

    two = sources.model("echo.txt", b"second")
    # The SDK's own check of cpu_cores and memory_gb fails for endpoints, so their defaults are taken.
    endpoint.create_version("two", autoscale_enabled=False, num_replicas=1, models=[two], inference_config=inference, traffic_percentile=0)
    endpoint.wait_for_deployment()
    assert set(endpoint.versions) == {"one", "two"} and endpoint.versions["one"].is_default
    assert {endpoint.run('"x"')["model"] for _ in range(20)} == {"first"}

    assert endpoint.get_logs().count("init is done") == 2 and "==> version two <==" in endpoint.get_logs()
    endpoint.regen_key("Secondary", set_key="another")
    assert endpoint.get_keys()[1] == "another"
    primary, _ = endpoint.get_keys()
    _, _, body = http(endpoint.versions["two"].scoring_uri, b'"x"', primary)
    assert json.loads(body)["model"] == "second", "a version has its own address"

    with pytest.raises(WebserviceException, match="add up to 150"):
        endpoint.update_version("two", traffic_percentile=50)
    endpoint.update_version("one", traffic_percentile=50)
    endpoint.wait_for_deployment()
    endpoint.update_version("two", traffic_percentile=50)
    endpoint.wait_for_deployment()
    seen = [json.loads(http(endpoint.scoring_uri, b'"x"', primary)[2])["model"] for _ in range(200)]
    assert 60 <= seen.count("first") <= 140

    with pytest.raises(WebserviceException, match="default"):
        endpoint.delete_version("one")
    endpoint.update_version("one", traffic_percentile=0)
    endpoint.wait_for_deployment()
    endpoint.update_version("two", traffic_percentile=100, is_default=True)
    endpoint.wait_for_deployment()
    with Load(endpoint.scoring_uri, primary) as load:
        endpoint.delete_version("one")
        endpoint.wait_for_deployment()
    assert load.lost() == []
    assert set(endpoint.versions) == {"two"}
    with pytest.raises(TypeError):  # AksEndpoint.update of azureml-core 1.61 calls its own check wrongly, and sends nothing
        endpoint.update(description="now two")
    assert AksEndpoint(ws, "many").serialize()["versions"].keys() == {"two"}
    endpoint.delete()
    assert "many" not in ws.webservices


SLOW = ECHO.replace("def init():", "def init():\n        import time; time.sleep(5)")
BROKEN = ECHO.replace("def init():", "def init():\n        raise RuntimeError('it cannot start')")


@proves("AksEndpoint: versions that come, fail and go lose no request", "D2")
def test_endpoint_under_load(ws, compute, sources, kubectl):
    def deployments():
        return kubectl("get", "deployments", "-l", "berth.dev/service=still", "-o", "name").split()

    one, two = sources.model("echo.txt", b"first"), sources.model("echo.txt", b"second")
    config = AksEndpoint.deploy_configuration(cpu_cores=0.1, memory_gb=0.3, autoscale_enabled=False, num_replicas=1, version_name="one", traffic_percentile=60)
    endpoint = Model.deploy(ws, "still", [one], sources.inference(ECHO), config, ws.compute_targets[COMPUTE])
    endpoint.wait_for_deployment()
    primary, _ = endpoint.get_keys()
    with Load(endpoint.scoring_uri, primary) as load:
        endpoint.create_version("two", autoscale_enabled=False, num_replicas=1, models=[two], inference_config=sources.inference(SLOW), traffic_percentile=40)
        endpoint.wait_for_deployment()
        until(lambda: json.loads(http(endpoint.scoring_uri, b'"x"', primary)[2])["model"] == "second", "the new version gets its share")
        endpoint.create_version("bad", autoscale_enabled=False, num_replicas=1, models=[two], inference_config=sources.inference(BROKEN), traffic_percentile=0)
        with pytest.raises(WebserviceException, match="it cannot start"):
            endpoint.wait_for_deployment()
        until(lambda: set(deployments()) == {"deployment.apps/still-one", "deployment.apps/still-two"}, "what failed is gone")
        endpoint.delete_version("bad")
        endpoint.wait_for_deployment()
        endpoint.update_version("two", is_default=True)
        endpoint.wait_for_deployment()
        endpoint.delete_version("one")
        endpoint.wait_for_deployment()
        until(lambda: deployments() == ["deployment.apps/still-two"], "the version that was deleted is gone")
        until(lambda: kubectl("get", "pods", "-l", "berth.dev/service=still,berth.dev/version=one", "-o", "name") == "", "its pods have ended", 90)
    assert load.lost() == []
    assert {json.loads(a[2])["model"] for a in load.answers} == {"first", "second"}
    endpoint.delete()


@proves("what kubectl changes of a web service is taken back; drains take one replica at a time", "D1")
def test_objects_are_kept(echo, kubectl):
    before = json.loads(kubectl("get", "deployment", "echo", "-o", "json"))["spec"]["template"]
    kubectl("set", "env", "deployment/echo", "MINE=1")
    kubectl("patch", "service", "echo", "-p", '{"spec":{"selector":{"mine":"1"}}}')
    until(lambda: json.loads(kubectl("get", "deployment", "echo", "-o", "json"))["spec"]["template"] == before, "the deployment is as it was")
    until(lambda: "mine" not in json.loads(kubectl("get", "service", "echo", "-o", "json"))["spec"]["selector"], "the service is as it was")
    generation = kubectl("get", "deployment", "echo", "-o", "jsonpath={.metadata.generation}")
    time.sleep(12)  # two looks: what Berth wrote is not written again
    assert kubectl("get", "deployment", "echo", "-o", "jsonpath={.metadata.generation}") == generation
    assert json.loads(kubectl("get", "poddisruptionbudget", "echo", "-o", "json"))["status"]["disruptionsAllowed"] == 1
    assert json.loads(kubectl("get", "networkpolicy", "berth-models", "-o", "json"))["spec"]["ingress"]


# What goes wrong, and what is said about it.


def fails(service, *words):
    with pytest.raises(WebserviceException) as e:
        service.wait_for_deployment()
    for word in words:
        assert word in str(e.value), f"{word!r} is not in: {e.value}"


@proves("a score.py that cannot be imported: its traceback, and the old version goes on", "D1")
def test_import_failure(ws, echo, sources, undisturbed):
    primary, _ = echo.get_keys()
    with Load(echo.scoring_uri, primary) as load:
        echo.update(models=[Model(ws, "echo")], inference_config=sources.inference("import nothing_of_that_name\n"))
        fails(echo, "CrashLoopBackOff", "No module named 'nothing_of_that_name'", "goes on serving")
    assert load.lost() == []
    assert echo.state == "Healthy" and http(echo.scoring_uri, key=primary)[0] == 200
    echo.update(models=[Model(ws, "echo")], inference_config=sources.inference(ECHO))
    echo.wait_for_deployment()


@proves("an init() that hangs: the deployment fails after the probe's delay", "D1")
def test_init_hangs(ws, compute, sources, undisturbed):
    model = sources.model("echo.txt", b"x")
    service = deploy(ws, "hangs", [model], sources.inference("""
        import threading

        def init():
            threading.Event().wait()

        def run(body):
            return 1
    """), small(initial_delay_seconds=4, period_seconds=1, failure_threshold=1, scoring_timeout_ms=1000), wait=False)
    fails(service, "crashed", "init() had not returned after 4s", "initial_delay_seconds")
    assert service.state == "Failed"
    assert said(http(service.scoring_uri, b"1", service.get_keys()[0])) == (503, "router", "NoReadyReplicas")
    service.delete()


@proves("a run() that raises, hangs, ends, leaks memory, or returns what is not JSON", "D1")
def test_run_fails(ws, compute, sources, undisturbed):
    model = sources.model("echo.txt", b"x")
    service = deploy(ws, "wrong", [model], sources.inference("""
        import json, os, threading

        def init():
            pass

        def run(body):
            what = json.loads(body)
            if what == "raise":
                raise ValueError("on purpose")
            if what == "hang":
                threading.Event().wait()
            if what == "object":
                return object()
            if what == "exit":
                os._exit(1)
            if what == "leak":
                kept = [b"x" * (1 << 24) for _ in range(100)]
            return what
    """), small(scoring_timeout_ms=2000, memory_gb_limit=0.5))
    primary, _ = service.get_keys()

    def ask(what):
        return http(service.scoring_uri, json.dumps(what).encode(), primary)

    assert ask("well")[0] == 200
    for what in ("raise", "object"):
        assert said(ask(what)) == (502, "model", "ModelError"), what
    assert "on purpose" in service.get_logs()
    hung = []
    hanging = threading.Thread(target=lambda: hung.append(ask("hang")))
    hanging.start()
    refused = until(lambda: next((a for a in [ask("well")] if a[0] != 200), None), "the only replica is busy")
    assert said(refused) == (503, "router", "Overloaded") and refused[1]["retry-after"]
    hanging.join()
    assert said(hung[0]) == (504, "router", "ScoringTimeout")
    until(lambda: ask("well")[0] == 200, "it answers again after a request that hung")
    assert said(ask("exit")) == (502, "router", "ReplicaClosedConnection"), "the connection was closed half-way"
    until(lambda: ask("well")[0] == 200, "it answers again after the worker died")
    assert said(ask("leak")) == (502, "router", "ReplicaClosedConnection"), "it was ended for its memory"
    until(lambda: ask("well")[0] == 200, "it answers again after it was out of memory")
    until(lambda: Webservice(ws, "wrong").state == "Healthy", "it is healthy")
    service.delete()


@proves("a model that uses too much memory: OOMKilled is said", "D1")
def test_out_of_memory(ws, compute, sources, undisturbed):
    model = sources.model("echo.txt", b"x")
    service = deploy(ws, "hungry", [model], sources.inference("""
        def init():
            global kept
            kept = [b"x" * (1 << 20) for _ in range(2000)]

        def run(body):
            return 1
    """), small(memory_gb_limit=0.5), wait=False)
    fails(service, "memory", "memory_gb_limit")
    service.delete()


@proves("an environment with another Python than the default", "D1")
def test_python(ws, compute, sources):
    model = sources.model("echo.txt", b"x")
    script = """
        import sys

        def init():
            pass

        def run(body):
            return sys.version_info[:2]
    """
    service = deploy(ws, "python", [model], sources.inference(script, python="3.9"))
    assert list(service.run("{}")) == [3, 9]
    service.delete()


@proves("an environment whose packages do not exist or conflict: said by name, in seconds", "D4")
def test_packages(ws, compute, sources, undisturbed):
    model = sources.model("echo.txt", b"x")
    service = deploy(ws, "packages", [model], sources.inference(ECHO, packages=[SERVER, "no-such-package-of-berth"]), wait=False)
    fails(service, "no-such-package-of-berth", "does not exist")
    service.delete()
    service = deploy(ws, "packages", [model], sources.inference(ECHO, packages=[SERVER, "requests==2.32.3", "urllib3==1.20"]), wait=False)
    fails(service, "urllib3")
    service.delete()


@proves("more than fits: Unschedulable, with what is free", "D1")
def test_unschedulable(ws, compute, sources, undisturbed):
    model = sources.model("echo.txt", b"x")
    service = deploy(ws, "large", [model], sources.inference(ECHO), small(cpu_cores=64, memory_gb=1), wait=False)
    fails(service, "Free are:", "CPU cores")
    assert service.state == "Unschedulable"
    service.delete()


@proves("a body over the limit, a slow client, a client that goes away", "D1")
def test_clients(echo, undisturbed):
    primary, _ = echo.get_keys()
    host, _, port = echo.scoring_uri.split("/")[2].partition(":")
    path = "/api/v1/service/echo/score"
    with socket.create_connection((host, int(port)), timeout=30) as s:
        s.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {primary}\r\nContent-Length: {200 << 20}\r\n\r\n".encode())
        answer = s.recv(4096).lower()
        assert b" 413 " in answer.split(b"\r\n")[0] and b"x-berth-answered-by: router" in answer and b"x-berth-reason: bodytoolarge" in answer
    for _ in range(3):  # clients that ask and do not wait for the answer
        with socket.create_connection((host, int(port)), timeout=30) as s:
            s.sendall(f'POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {primary}\r\nContent-Length: 3\r\n\r\n"x"'.encode())
    slow = socket.create_connection((host, int(port)), timeout=30)
    slow.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {primary}\r\nContent-Length: 3\r\n\r\n".encode())
    assert all(http(echo.scoring_uri, key=primary)[0] == 200 for _ in range(5)), "a slow client takes no replica"
    slow.sendall(b'"x"')
    assert b" 200 " in slow.recv(4096).split(b"\r\n")[0]
    slow.close()


# What breaks, and mends itself.


def certificate(name, serial):
    """A key and a self-signed certificate, in PEM."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(serial)
            .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False).sign(key, hashes.SHA256()))
    plain = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return plain.decode(), cert.public_bytes(serialization.Encoding.PEM).decode()


@proves("AksCompute.update with a certificate, and with a newer one: served at once", "C2")
def test_tls(ws, echo, kubectl, tmp_path):
    name = "scoring.berth.test"
    address = kubectl("get", "service", "azureml-fe", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
    primary, _ = echo.get_keys()

    def serial():
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with contextlib.suppress(OSError), socket.create_connection((address, 443), timeout=5) as s:
            with context.wrap_socket(s, server_hostname=name) as tls:
                from cryptography import x509

                return x509.load_der_x509_certificate(tls.getpeercert(True)).serial_number

    def configure(tls):
        target = ws.compute_targets[COMPUTE]
        target.update(AksUpdateConfiguration(tls))
        target.wait_for_completion()

    def use(number):
        key, cert = certificate(name, number)
        (tmp_path / "cert.pem").write_text(cert)
        configure(SslConfiguration(status="Enabled", cname=name, cert=cert, key=key))
        until(lambda: serial() == number, f"certificate {number} is served")

    use(1)
    use(2)
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with socket.create_connection((address, 443), timeout=5) as s, context.wrap_socket(s, server_hostname=name) as tls:
        tls.sendall(f'POST /api/v1/service/echo/score HTTP/1.1\r\nHost: {name}\r\nAuthorization: Bearer {primary}\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"x"'.encode())
        assert b" 200 " in tls.recv(4096).split(b"\r\n")[0]
    until(lambda: Webservice(ws, "echo").scoring_uri.startswith(f"https://{name}"), "scoring URIs have the certificate's name")
    configure(SslConfiguration(status="Disabled"))
    until(lambda: Webservice(ws, "echo").scoring_uri.startswith("http://"), "scoring URIs are as before")
    until(lambda: http(echo.scoring_uri, key=primary)[0] == 200, "it serves without TLS")


def processes(cgroup, program=""):
    """The processes of a program below a cgroup of one of the cluster's nodes."""
    out = []
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if cgroup in (entry / "cgroup").read_text() and program in (entry / "cmdline").read_text():
                out.append(int(entry.name))
    return out


def kill(pids):
    assert pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def pods_of(kubectl, service):
    return json.loads(kubectl("get", "pods", "-l", "berth.dev/service=" + service, "-o", "json"))["items"]


def kill_container(kubectl, service):
    """Kills a model's container as a fault of its node would."""
    pod = pods_of(kubectl, service)[0]
    kill(processes(pod["metadata"]["uid"], "gunicorn") or processes(pod["metadata"]["uid"], "python"))
    return pod["metadata"]["name"]


def restarts(kubectl, pod):
    return int(kubectl("get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].restartCount}"))


def available(kubectl, deployment):
    return json.loads(kubectl("get", "deployment", deployment, "-o", "json"))["status"].get("availableReplicas", 0)


@proves("a model pod ended: no request lost with another replica. Its container killed: none but those in it. Both come back", "D1")
def test_pod_killed(echo, kubectl, undisturbed):
    echo.update(num_replicas=2)
    echo.wait_for_deployment()
    primary, _ = echo.get_keys()
    with Load(echo.scoring_uri, primary) as load:
        name = pods_of(kubectl, "echo")[0]["metadata"]["name"]
        kubectl("delete", "pod", name)
        until(lambda: available(kubectl, "echo") == 2, "there are two again")
        assert load.lost() == []
        name = kill_container(kubectl, "echo")
        until(lambda: restarts(kubectl, name) == 1, "it was started again")
        until(lambda: available(kubectl, "echo") == 2, "both serve")
        load.more()
    assert len(load.lost()) <= 2 and all(said(a) in CUT for a in load.lost()), load.lost()


@proves("a front end killed: none but the requests in it are lost, and it comes back by itself", "D1")
def test_front_end_killed(echo, kubectl, undisturbed):
    undisturbed.cut = 1
    primary, _ = echo.get_keys()
    pod = json.loads(kubectl("get", "pods", "-l", "app=azureml-fe", "-o", "json"))["items"][0]["metadata"]
    with Load(echo.scoring_uri, primary) as load:
        kill(processes(pod["uid"], "azureml-fe"))
        until(lambda: restarts(kubectl, pod["name"]) == 1, "it was started again")
        until(lambda: available(kubectl, "azureml-fe") == 3, "three serve")
        load.more(50)
    # A client whose connection was to it sees that break.
    assert len(load.lost()) <= CUT_BY_FRONT_END * len(load.threads) and all(said(a) in CUT or isinstance(a[0], str) for a in load.lost()), load.lost()


@proves("a node killed: the others serve, and it comes back by itself", "D1")
def test_node_killed(serving_berth, echo, kubectl, undisturbed):
    undisturbed.cut = 2
    echo.update(num_replicas=2)
    echo.wait_for_deployment()
    primary, _ = echo.get_keys()
    cluster = next(pathlib.Path(serving_berth.home, "clusters", "clusters").iterdir()).name
    pod = pods_of(kubectl, "echo")[0]
    node = pod["status"]["podIP"].split(".")[2]  # each has the pods' network of its number
    with Load(echo.scoring_uri, primary, clients=1) as load:
        kill(processes(f"/berth/{cluster}/n{node}/"))
        load.more(50)
        until(lambda: available(kubectl, "echo") == 2 and available(kubectl, "azureml-fe") == 3 and restarts(kubectl, pod["metadata"]["name"]) > 0, "all serve again", patience=120)
        load.more()
    assert len(load.lost()) <= CUT_BY_FRONT_END + 1, f"at most what its front end cuts is lost, and the request in its pod, which ends a moment later: {load.lost()}"
    passed_on = [a for a in load.lost() if said(a)[2] == "FrontEndClosedConnection"]
    assert len(passed_on) <= 2, f"each of the other front ends passes at most one on to it: {load.lost()}"


@proves("an API server away for a minute: no request lost but one in a container killed meanwhile; what was asked for meanwhile is done", "D1")
def test_api_server_away(serving_berth, ws, echo, kubectl, undisturbed):
    echo.update(num_replicas=2)
    echo.wait_for_deployment()
    primary, secondary = echo.get_keys()
    home = serving_berth.home
    server = [int(e.name) for e in pathlib.Path("/proc").iterdir() if e.name.isdigit() and is_api_server(e, home)]
    assert len(server) == 1
    uid = pods_of(kubectl, "echo")[0]["metadata"]["uid"]
    asking = threading.Thread(target=lambda: echo.regen_key("Primary", set_key="asked for while it was away"))  # returns when it is done
    with Load(echo.scoring_uri, secondary, clients=1) as load:
        os.kill(server[0], signal.SIGSTOP)
        try:
            began = time.monotonic()
            asking.start()
            kill(processes(uid, "gunicorn") or processes(uid, "python"))
            load.more()
            time.sleep(max(0, began + 60 - time.monotonic()))  # the fault itself, not a wait for something
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server[0], signal.SIGCONT)
        asking.join()
        until(lambda: http(echo.scoring_uri, key="asked for while it was away")[0] == 200, "the new key is accepted", patience=120)
        assert said(http(echo.scoring_uri, key=primary)) == (401, "router", "Unauthorized")
        until(lambda: Webservice(ws, "echo").state == "Healthy", "it is healthy when the API server is back", patience=120)
    assert len(load.lost()) <= 1 and all(said(a) in CUT for a in load.lost()), load.lost()


def is_api_server(entry, home):
    with contextlib.suppress(OSError):
        command = (entry / "cmdline").read_text()
        return "\0apiserver\0" in command and home in command
    return False


@proves("a model file that is gone: the deployment fails with its name", "D1")
def test_model_file_gone(serving_berth, ws, compute, sources, undisturbed):
    model = sources.model("gone.txt", b"here today")
    files = [f for f in pathlib.Path(serving_berth.home, "blobs").rglob("*gone.txt*") if f.is_file()]
    assert files
    for f in files:
        f.unlink()
    service = deploy(ws, "gone", [model], sources.inference(ECHO), wait=False)
    fails(service, "gone.txt")
    service.delete()


@contextlib.contextmanager
def down(berth):
    """Berth as a crash leaves it."""
    berth.kill()
    try:
        yield
    finally:
        berth.start()


@proves("the control plane and its registry down: services go on, scale and are started again; what needs the registry waits for it", "D1", "D3")
def test_control_plane_down(serving_berth, ws, compute, sources, kubectl, undisturbed):
    config = small(autoscale_enabled=True, autoscale_min_replicas=1, autoscale_max_replicas=2, autoscale_target_utilization=50, max_request_wait_time=30000)
    service = deploy(ws, "alone", [sources.model("alone.txt", b"alone")], sources.inference(ECHO, variables={"MODEL_FILE": "alone.txt"}), config)
    primary, _ = service.get_keys()
    first = pods_of(kubectl, "alone")[0]
    node = first["spec"]["nodeName"]  # the only one that has the model

    def waiting():
        states = [s["state"].get("waiting", {}).get("reason") for p in pods_of(kubectl, "alone") for s in p["status"].get("containerStatuses", [])]
        return "ErrImagePull" in states or "ImagePullBackOff" in states

    kubectl("cordon", node)
    try:
        with Load(service.scoring_uri, primary, clients=3) as load:
            with down(serving_berth):
                until(lambda: len(pods_of(kubectl, "alone")) == 2, "the load makes a second replica")
                until(waiting, "it waits for the registry")
                load.more()
                assert load.lost() == []
                kill(processes(first["metadata"]["uid"], "gunicorn") or processes(first["metadata"]["uid"], "python"))
                until(lambda: restarts(kubectl, first["metadata"]["name"]) == 1, "the container that was killed is started again")
                load.more()
            until(lambda: available(kubectl, "alone") == 2, "the second replica serves when the registry is back", patience=120)
            load.more()
        assert len(load.lost()) <= 1 and all(said(a) in CUT for a in load.lost()), load.lost()
    finally:
        kubectl("uncordon", node)
    until(lambda: Webservice(ws, "alone").state == "Healthy", "it is seen to be healthy")
    assert service.run('"x"')["got"] == "x"
    service.delete()


@proves("the control plane killed during a deployment: it goes on with it", "D1")
def test_killed_while_deploying(serving_berth, ws, echo, sources, undisturbed):
    model = sources.model("echo.txt", b"after the crash")
    service = deploy(ws, "resumed", [model], sources.inference(ECHO, packages=[SERVER, "six"]), wait=False)
    serving_berth.kill()
    serving_berth.start()
    service.wait_for_deployment()
    assert service.run('"x"')["model"] == "after the crash"
    service.delete()


@proves("AksWebservice.delete leaves nothing in the cluster", "D1")
def test_delete(ws, echo, kubectl):
    echo.delete()
    assert "echo" not in ws.webservices
    assert kubectl("get", "deployments,services,secrets,pods", "-l", "berth.dev/service=echo", "-o", "name").strip() == ""
    assert http(echo.scoring_uri, key="x")[0] == 404
    with pytest.raises(WebserviceException, match="(?i)not found"):
        Webservice(ws, "echo")
