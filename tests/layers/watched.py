"""Ways in which a call of a module comes to do more than its class's forward: each notes that it happened."""

import pytest


def hook(module, name, seen):
    module.get_submodule(name).register_forward_hook(lambda *_: seen.append(name))


def hook_before(module, name, seen):
    module.get_submodule(name).register_forward_pre_hook(lambda *_: seen.append(name))


def replace_forward(module, name, seen):
    part = module.get_submodule(name)
    forward = part.forward
    part.forward = lambda *arguments: seen.append(name) or forward(*arguments)


def derive(module, name, seen):
    part = module.get_submodule(name)

    class Derived(type(part)):
        def forward(self, *arguments):
            seen.append(name)
            return super().forward(*arguments)

    part.__class__ = Derived


each_change = pytest.mark.parametrize("change", [hook, hook_before, replace_forward, derive])
