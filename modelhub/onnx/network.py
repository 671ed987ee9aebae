"""A foreign ONNX graph as a torch network whose every weight can be trained."""

from __future__ import annotations

import copy

import onnx
import torch
from torch import Tensor, fx, nn

from ecgportal.errors import InvalidInput, ParityError
from modelhub.architectures.base import MIXING, NORMS, EcgNetwork
from modelhub.onnx.converters import promote
from modelhub.onnx.passes import publishable
from modelhub.runtime_words import EXPORT_AGAIN, logged, several_heads


class ForeignNetwork(EcgNetwork):
    """The converted graph of an ONNX file of operator set 17, in eval mode.

    The head is found by its position: the last layer that mixes features before the output, with the norms and
    biases behind it. ParityError (``operator_not_supported``) names the operator that cannot be converted.
    """

    has_2d_form = False
    dynamic_length = False

    def __init__(self, model: onnx.ModelProto, *, n_leads: int, n_samples: int, n_classes: int) -> None:
        super().__init__(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes)
        self.graph = _convert(model)
        _matmul_to_linear(self.graph)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.graph(x)

    def head_modules(self) -> list[nn.Module]:
        mixing, norms = self._tail()
        return [self.graph.get_submodule(name) for name in (*mixing, *norms)]

    def class_layers(self) -> list[nn.Module]:
        return self.head_modules()

    def fixed_head(self) -> str | None:
        """Return why this network can be trained with its own classes only; None where it takes others."""
        with torch.no_grad():
            device = next(self.parameters()).device
            n_outputs = self(torch.zeros(2, self.n_leads, self.n_samples, device=device)).shape[1]
        try:
            copy.deepcopy(self).replace_head(n_outputs + 1)
        except InvalidInput as error:
            return error.message
        return None

    def replace_head(self, n_classes: int) -> None:
        mixing, norms = self._tail()
        if len(mixing) != 1:
            raise InvalidInput(several_heads(len(mixing)), code="head_not_found")
        old = self.graph.get_submodule(mixing[0])
        fresh: dict[str, nn.Module] = {mixing[0]: _resized(old, n_classes)}
        for name in norms:
            fresh[name] = type(self.graph.get_submodule(name))(n_classes)
        previous = {name: self.graph.get_submodule(name) for name in fresh}
        device = next(self.parameters()).device
        for name, module in fresh.items():
            self.graph.set_submodule(name, module.to(device).train(self.training))
        was_training = self.training
        try:
            with torch.no_grad():
                answer = self.eval()(torch.zeros(2, self.n_leads, self.n_samples, device=device))
            fits = answer.shape == (2, n_classes)
        except Exception:  # converted layers raise what they like.
            fits = False
        finally:
            self.train(was_training)
        if not fits:
            for name, module in previous.items():
                self.graph.set_submodule(name, module)
            raise InvalidInput(
                "What follows the classification layer of this model fixes the number of classes. "
                "Train it with its own classes.",
                code="head_not_found",
            )
        self.n_classes = n_classes

    def _tail(self) -> tuple[list[str], list[str]]:
        """Return the names of the last mixing layers and of the norms behind them, walking back from the output."""
        output = next(node for node in self.graph.graph.nodes if node.op == "output")
        waiting = list(output.all_input_nodes)
        seen: set[fx.Node] = set()
        mixing: list[str] = []
        norms: list[str] = []
        while waiting:
            node = waiting.pop(0)
            if node in seen:
                continue
            seen.add(node)
            if node.op == "call_module":
                module = self.graph.get_submodule(str(node.target))
                if isinstance(module, MIXING):
                    mixing.append(str(node.target))
                    continue
                if isinstance(module, NORMS):
                    norms.append(str(node.target))
            waiting.extend(node.all_input_nodes)
        return mixing, norms


def unsupported_operators(model: onnx.ModelProto) -> list[str]:
    """Return the operators of a graph that have no converter, by name."""
    from onnx2torch.node_converters.registry import get_converter

    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    missing = set()
    for node in model.graph.node:
        if node.op_type == "Constant":
            continue
        try:
            get_converter(domain=node.domain, operation_type=node.op_type, version=version)
        except NotImplementedError:
            missing.add(node.op_type)
    return sorted(missing)


def _convert(model: onnx.ModelProto) -> fx.GraphModule:
    from onnx2torch import convert

    missing = unsupported_operators(model)
    if missing:
        raise ParityError(
            f"The operator {', '.join(missing)} cannot be converted for training.", code="operator_not_supported"
        )
    try:
        module = convert(publishable(model))
    except Exception as error:  # each converter raises what it likes; the file stays usable for prediction.
        sentence = logged(f"Its graph has a form that cannot be converted for training. {EXPORT_AGAIN}", error)
        raise ParityError(sentence, code="operator_not_supported") from error
    promote(module)
    return module


def _matmul_to_linear(module: fx.GraphModule) -> None:
    """Turn products with a weight matrix into linear layers, so that heads of either form are alike (in place)."""
    for node in list(module.graph.nodes):
        if node.op != "call_module" or type(module.get_submodule(str(node.target))).__name__ != "OnnxMatMul":
            continue
        left, right = node.args
        weight = _attribute(module, right)
        if not isinstance(left, fx.Node) or weight is None or weight.dim() != 2:
            continue
        linear = nn.Linear(weight.shape[0], weight.shape[1], bias=False)
        users = list(node.users)
        bias_node = users[0] if len(users) == 1 else None
        bias = _added_bias(module, node, bias_node, weight.shape[1])
        with torch.no_grad():
            linear.weight.copy_(weight.T)
            if bias is not None:
                linear.bias = nn.Parameter(bias.detach().clone())
        module.set_submodule(str(node.target), linear)
        node.args = (left,)
        if bias is not None and bias_node is not None:
            bias_node.replace_all_uses_with(node)
            module.graph.erase_node(bias_node)
    module.graph.eliminate_dead_code()
    _drop_unused_weights(module)
    module.recompile()


def _added_bias(module: fx.GraphModule, node: fx.Node, user: fx.Node | None, size: int) -> Tensor | None:
    if user is None or user.op != "call_module":
        return None
    operation = module.get_submodule(str(user.target))
    if (
        type(operation).__name__ != "OnnxBinaryMathOperation"
        or getattr(operation, "math_op_function", None) is not torch.add
    ):
        return None
    others = [arg for arg in user.args if arg is not node]
    value = _attribute(module, others[0]) if len(others) == 1 else None
    return value if value is not None and value.shape == (size,) else None


def _attribute(module: fx.GraphModule, node: object) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: object = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, nn.Parameter) else None


def _drop_unused_weights(module: fx.GraphModule) -> None:
    used = {str(node.target).split(".")[-1] for node in module.graph.nodes if node.op == "get_attr"}
    constants = getattr(module, "initializers", None)
    if isinstance(constants, nn.Module):
        for name in [n for n, _ in constants.named_parameters(recurse=False) if n not in used]:
            delattr(constants, name)


def _resized(layer: nn.Module, n_classes: int) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, n_classes, bias=layer.bias is not None)
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    if layer.groups != 1:
        raise InvalidInput(
            "The classification layer of this model is a grouped convolution. Train it with its own classes.",
            code="head_not_found",
        )
    return type(layer)(
        layer.in_channels,
        n_classes,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        bias=layer.bias is not None,
    )
