"""Starts one Berth for the suite and records what each test proved.

A test carries @pytest.mark.proves(client, operation, *behaviours): the client's name, the
operation as its users call it, and the numbers of the mission's behaviours. Each result
becomes a line of JSON in $BERTH_CONFORMANCE, from which docs/conformance.md is made. So does each call
of azureml-core's surface that a test makes; @pytest.mark.differs(call, how) says what is otherwise than in Azure.
"""

import importlib.metadata
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

import pytest
import surface

LIBEXEC = os.environ.get("BERTH_LIBEXEC", str(pathlib.Path(__file__).parents[3] / "bin" / "libexec"))
BERTH = os.environ.get("BERTH_BIN", str(pathlib.Path(__file__).parents[3] / "bin" / "berth"))


def pytest_configure(config):
    config.addinivalue_line("markers", "proves(client, operation, *behaviours): what a test proves")
    config.addinivalue_line("markers", "differs(call, how): what a call of azureml-core does otherwise here")


AZUREML = "azureml-core"
recorder = None


def record(client, **line):
    with open(pathlib.Path(os.environ["BERTH_CONFORMANCE"]) / f"{client}.jsonl", "a") as f:
        f.write(json.dumps({"client": client, "version": importlib.metadata.version(client), **line}) + "\n")


def pytest_collection_finish(session):
    """Lists the whole surface, so that a call that no test makes is seen."""
    global recorder
    if os.environ.get("BERTH_CONFORMANCE") and any(m.args[0] == AZUREML for i in session.items for m in i.iter_markers("proves")):
        recorder = surface.Recorder()
        for call in sorted(recorder.labels):
            record(AZUREML, call=call)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if recorder:
        recorder.reset()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    mark = item.get_closest_marker("proves")
    # What cannot even begin has failed; what is skipped has not.
    if mark is None or not os.environ.get("BERTH_CONFORMANCE") or not (report.when == "call" or report.when == "setup" and report.failed):
        return
    client, operation, *behaviours = mark.args
    result = "pass" if report.passed else "fail"
    record(client, operation=operation, behaviours=behaviours, result=result)
    if recorder:
        differs = dict(m.args for m in item.iter_markers("differs"))
        for what, returned in recorder.returned.items():
            record(client, call=what, test=item.originalname, result=result, returned=returned, differs=differs.get(what, ""))


class Berth:
    """A running Berth, and the environment in which unmodified clients reach it."""

    def __init__(self, home):
        self.home = home
        self.group, self.workspace = "client-rg", "client-ws"

    def cli(self, *args):
        out = subprocess.run([BERTH, *args, "--home", self.home], capture_output=True, text=True, timeout=120)
        if out.returncode:
            raise RuntimeError(f"berth {' '.join(args)}: {out.stderr}")
        return out.stdout.strip()

    def start(self, *options):
        self.options = options or self.options
        self.cli("up", "--detach", *self.options)

    def kill(self):
        """Ends Berth as a crash does, and waits until the process is gone."""
        pid = json.loads(self.cli("status", "-o", "json"))["pid"]
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while pathlib.Path(f"/proc/{pid}/stat").exists() and " Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text():
            assert time.monotonic() < deadline, f"process {pid} is still there"
            time.sleep(0.02)

    @property
    def kubeconfig(self):
        return os.path.join(self.home, "test.kubeconfig")

    def kubectl(self, *args):
        command = [os.path.join(LIBEXEC, "kubectl"), "--kubeconfig", self.kubeconfig, *args]
        # Not through Berth's proxy, which is for Azure's names and is gone when Berth is.
        env = {k: v for k, v in os.environ.items() if k.lower() not in ("http_proxy", "https_proxy")}
        out = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
        if out.returncode:
            raise RuntimeError(f"kubectl {' '.join(args)}: {out.stderr}")
        return out.stdout

    def environment(self):
        out = subprocess.run([BERTH, "run", "--home", self.home, "--", "env", "-0"], capture_output=True, text=True, check=True, timeout=60)
        return dict(kv.split("=", 1) for kv in out.stdout.split("\0") if kv)


@pytest.fixture(scope="session")
def berth():
    with tempfile.TemporaryDirectory() as home:
        b = Berth(home)
        b.cli("up", "--detach", "--provider", "fake")
        try:
            b.cli("group", "create", "-n", b.group, "-l", "westeurope")
            b.cli("ml", "workspace", "create", "-w", b.workspace, "-g", b.group)
            os.environ.update(b.environment())
            yield b
        finally:
            b.cli("down", "--delete", "--yes")


@pytest.fixture(scope="session")
def serving_berth():
    """A Berth with real clusters, for models that really run."""
    if os.geteuid() != 0 or not os.path.exists(os.path.join(LIBEXEC, "azureml-fe")):
        if os.environ.get("CI") == "true":
            pytest.fail("web services need root and what `make build` makes")
        pytest.skip("needs root and what `make build` makes")
    with tempfile.TemporaryDirectory() as home:
        b = Berth(home)
        b.start("--provider", "local", "--libexec", LIBEXEC, "--schedule-wait", "10s")
        try:
            b.cli("group", "create", "-n", "serve-rg", "-l", "westeurope")
            b.cli("ml", "workspace", "create", "-w", "serve-ws", "-g", "serve-rg")
            os.environ.update(b.environment())
            yield b
        finally:
            b.cli("down", "--delete", "--yes")
