"""Which calls of azureml-core's surface for models, environments and web services there are, and which of them a test
makes. Calls that the client makes itself, within another, do not count."""

import functools
import inspect
import threading

# Of the classes that stand around them, what people call.
BESIDE = {"InferenceConfig()", "ImageBuildDetails.get_log", "ImageBuildDetails.wait_for_completion", "AksServiceDeploymentConfiguration.print_deploy_configuration"}


def classes():
    """The classes whose every call counts, and those beside them."""
    from azureml.core import Environment, Model, Webservice
    from azureml.core.environment import ImageBuildDetails
    from azureml.core.model import InferenceConfig
    from azureml.core.webservice import AksEndpoint, AksWebservice
    from azureml.core.webservice.aks import AksServiceDeploymentConfiguration

    return [Model, Environment, Webservice, AksWebservice, AksEndpoint], [InferenceConfig, ImageBuildDetails, AksServiceDeploymentConfiguration]


def owner(cls, name):
    return next((c for c in cls.__mro__ if name in vars(c) and c.__module__.startswith("azureml.")), None)


def plain(raw):
    return raw.__func__ if isinstance(raw, (staticmethod, classmethod)) else raw


def public(cls):
    """Name, defining class and raw attribute of the constructor of a class and of each of its public functions."""
    yield next((n, owner(cls, n), vars(owner(cls, n))[n]) for n in ("__new__", "__init__") if owner(cls, n))
    for name in dir(cls):
        where = owner(cls, name)
        if where and not name.startswith("_") and inspect.isfunction(plain(vars(where)[name])):
            yield name, where, vars(where)[name]


def label(cls, name):
    return cls.__name__ + ("()" if name.startswith("__") else "." + name)


def calls():
    """The label of every call. A static function is listed for the class that defines it, a method for each class that
    has it, but for Webservice: every web service is of a class below it."""
    out = []
    whole, beside = classes()
    for cls in whole + beside:
        for name, where, raw in public(cls):
            static, new = isinstance(raw, staticmethod), name.startswith("__")
            if not new and (static and where is not cls or cls.__name__ == "Webservice" and not static):
                continue
            if cls in whole or label(cls, name) in BESIDE:
                out.append(label(cls, name))
    return out


class Recorder:
    """Notes the calls made since the last reset, and of each whether it ever returned."""

    def __init__(self):
        self.returned, self.within = {}, threading.local()
        self.labels = set(calls())
        whole, beside = classes()
        for cls in whole + beside:
            for name, where, raw in list(public(cls)):
                self.wrap(name, where, raw)

    def reset(self):
        self.returned = {}

    def wrap(self, name, where, raw):
        function = plain(raw)
        if hasattr(function, "recorded"):
            return

        @functools.wraps(function)
        def call(*args, **kwargs):
            if getattr(self.within, "yes", False):
                return function(*args, **kwargs)
            if name == "__new__" or isinstance(raw, classmethod):
                cls = args[0]
            else:
                cls = where if isinstance(raw, staticmethod) else type(args[0])
            what, ok = label(cls, name), False
            self.within.yes = True
            try:
                value = function(*args, **kwargs)
                ok = True
                return value
            finally:
                self.within.yes = False
                if what in self.labels:
                    self.returned[what] = self.returned.get(what, False) or ok

        call.recorded = True
        kind = type(raw) if isinstance(raw, (staticmethod, classmethod)) else None
        setattr(where, name, kind(call) if kind else call)
