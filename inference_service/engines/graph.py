"""What an exported graph needs before it runs elsewhere or in another precision than it was made.

Export bakes devices and datatypes of the trainer's into the graph. Decides which of them follow: a
device always, a floating datatype where the weights are cast too. A model that computes a part in
higher precision on purpose loses that, which is for the probe to judge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from inference_service.precision import Precision

_CHECKS_DATATYPE = torch.ops.aten._assert_tensor_metadata.default


def move_literals(module: fx.GraphModule, device: torch.device) -> None:
    """Points tensors that the graph itself creates at `device`; export baked in the trainer's."""
    _replace_literals(module, torch.device, lambda _: device)


def cast_literals(module: fx.GraphModule, precision: Precision) -> None:
    """Lets the graph's own constants and conversions have the precision of its weights."""
    for node in list(module.graph.nodes):
        if node.target is _CHECKS_DATATYPE:
            module.graph.erase_node(node)
    _replace_literals(module, torch.dtype, precision.of)
    named = set(module.state_dict())
    for name, tensor in _constants(module):
        if name not in named:
            _set(module, name, tensor.to(precision.of(tensor.dtype)))


def name_constants(module: fx.GraphModule) -> None:
    """Makes buffers of the constants that a graph holds as bare tensors.

    Compiled code then knows them by name, and the graph can be traced once more.
    """
    for node in module.graph.nodes:
        node.target = _TRACED_AGAIN.get(node.target, node.target)
    for name, tensor in _constants(module):
        owner, _, last = name.rpartition(".")
        part = module.get_submodule(owner)
        if last not in part._buffers and last not in part._parameters:
            delattr(part, last)
            # Not persistent: it is the program's, no version brings it.
            part.register_buffer(last, tensor, persistent=False)
    module.recompile()


# A constant is copied and detached in place, which torch cannot trace a second time.
_TRACED_AGAIN: dict[Any, Any] = {
    torch.ops.aten.lift_fresh_copy.default: torch.ops.aten.clone.default,
    torch.ops.aten.detach_.default: torch.ops.aten.detach.default,
}


def tensors_read(module: fx.GraphModule) -> set[str]:
    """Names of the parameters, buffers and constants that the graph reads."""
    return {str(node.target) for node in module.graph.nodes if node.op == "get_attr" and node.users}


def _constants(module: fx.GraphModule) -> list[tuple[str, torch.Tensor]]:
    return [(name, _get(module, name)) for name in sorted(tensors_read(module))]


def _get(module: fx.GraphModule, name: str) -> Any:
    owner, _, last = name.rpartition(".")
    return getattr(module.get_submodule(owner), last)


def _set(module: fx.GraphModule, name: str, tensor: torch.Tensor) -> None:
    owner, _, last = name.rpartition(".")
    setattr(module.get_submodule(owner), last, tensor)


def _replace_literals(
    module: fx.GraphModule, kind: type, replacement: Callable[[Any], Any]
) -> None:
    def replaced(argument: Any) -> Any:
        return replacement(argument) if isinstance(argument, kind) else argument

    for node in module.graph.nodes:
        node.args = tuple(map(replaced, node.args))
        node.kwargs = {name: replaced(value) for name, value in node.kwargs.items()}
    module.recompile()
