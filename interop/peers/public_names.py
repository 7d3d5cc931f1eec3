"""The public names of the package `ekuiper` that this interpreter has, as JSON: those that
`__all__` says, and those of the modules that programs import from.

A name is public where its module defines it and it has no underscore before it. Of a class, its
methods are told with their parameters.
"""

import importlib
import inspect
import json

MODULES = ["ekuiper.runtime.context", "ekuiper.runtime.contextimpl", "ekuiper.runtime.plugin"]


def parameters(function):
    signature = inspect.signature(function)
    return [
        name + ("=" if parameter.default is not inspect.Parameter.empty else "")
        for name, parameter in signature.parameters.items()
    ]


def described(value):
    if inspect.isclass(value):
        methods = {}
        for name, member in inspect.getmembers(value, inspect.isfunction):
            if not name.startswith("_") or name == "__init__":
                methods[name] = parameters(member)
        return {"class": methods}
    if inspect.isfunction(value):
        return {"function": parameters(value)}
    return {"value": type(value).__name__}


def names(module):
    found = {}
    for name, value in vars(module).items():
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
            found[name] = described(value)
    for name in getattr(module, "__annotations__", {}):
        if not name.startswith("_"):
            found.setdefault(name, {"annotation": True})
    return found


package = importlib.import_module("ekuiper")
public = {"ekuiper": {name: described(getattr(package, name)) for name in package.__all__}}
for name in MODULES:
    public[name] = names(importlib.import_module(name))
print(json.dumps(public))
