"""The fast form of networks: the same outputs and gradients by other ways of computing."""

import pytest
import torch

from modelhub.architectures.fast import as_2d
from modelhub.architectures.grouped_samples import GroupedConv2d
from modelhub.architectures.long_filters import LongFilterConv2d, dense_gradient, depthwise_gradient
from modelhub.architectures.registry import build


@pytest.mark.parametrize("n_samples", [16, 37, 40, 100, 101])
@pytest.mark.parametrize("length", [17, 19, 39])
@pytest.mark.parametrize(("groups", "n_out", "along"), [(1, 5, dense_gradient), (6, 6, depthwise_gradient)])
def test_the_gradient_of_long_filters_is_that_of_the_convolution(n_samples, length, groups, n_out, along):
    generator = torch.Generator().manual_seed(n_samples * length)
    x = torch.randn(3, 6, n_samples, dtype=torch.float64, generator=generator)
    gradient = torch.randn(3, n_out, n_samples, dtype=torch.float64, generator=generator)
    weight = torch.zeros(n_out, 6 // groups, length, dtype=torch.float64, requires_grad=True)
    torch.conv1d(x, weight, padding=length // 2, groups=groups).backward(gradient)
    found = along(x.transpose(1, 2), gradient.transpose(1, 2), length).reshape(weight.shape)
    torch.testing.assert_close(found, weight.grad)


@pytest.mark.parametrize(
    ("name", "n_samples", "on_processor", "kind", "count"),
    [
        ("inception_time", 200, True, LongFilterConv2d, 12),
        ("inception_time", 200, False, GroupedConv2d, 18),
        ("inception_time", 203, False, GroupedConv2d, 18),
        ("xception_time", 200, True, LongFilterConv2d, 8),
    ],
)
def test_outputs_and_gradients_are_those_of_the_plain_network(name, n_samples, on_processor, kind, count):
    slow = build(name, n_leads=12, n_samples=n_samples, fs_hz=100.0, n_classes=3, seed=1).train()
    fast = as_2d(slow, on_processor=on_processor)
    assert sum(isinstance(layer, kind) for layer in fast.modules()) == count
    assert {n for n, _ in fast.net.named_parameters()} == {n for n, _ in slow.named_parameters()}
    assert set(fast.net.state_dict()) == set(slow.state_dict())
    x = torch.randn(4, 12, n_samples, generator=torch.Generator().manual_seed(2)) * 0.2
    signals = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [net(own) for net, own in zip((slow, fast), signals, strict=True)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-4)
    for output in outputs:
        output.square().mean().backward()
    torch.testing.assert_close(signals[1].grad, signals[0].grad, rtol=0, atol=1e-4)
    for (own, a), b in zip(slow.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(b.grad.reshape(a.shape), a.grad, rtol=0, atol=1e-4, msg=own)
        assert a.grad.abs().max() > 0, own


@pytest.mark.parametrize("n_samples", [3, 16, 37, 102])
@pytest.mark.parametrize("length", [9, 11, 39])
@pytest.mark.parametrize("n_in", [16, 32, 64])
def test_a_filter_over_groups_of_samples_is_the_filter(n_samples, length, n_in):
    generator = torch.Generator().manual_seed(n_samples * length)
    conv = GroupedConv2d(n_in, 5, (1, length), padding=(0, length // 2), bias=False).double()
    x = torch.randn(2, n_in, 1, n_samples, dtype=torch.float64, generator=generator)
    given = [x.clone().requires_grad_() for _ in range(2)]
    weight = conv.weight.detach().clone().requires_grad_()
    found = conv(given[0].contiguous(memory_format=torch.channels_last))
    wanted = torch.conv2d(given[1], weight, padding=(0, length // 2))
    gradient = torch.randn(wanted.shape, dtype=torch.float64, generator=generator)
    found.backward(gradient)
    wanted.backward(gradient)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(given[0].grad, given[1].grad)
    torch.testing.assert_close(conv.weight.grad, weight.grad)


def test_frozen_filters_get_no_gradient_and_pass_on_that_of_their_input():
    net = as_2d(build("xception_time", n_leads=2, n_samples=100, fs_hz=100.0, n_classes=2, seed=1)).train()
    for layer in net.modules():
        if isinstance(layer, LongFilterConv2d):
            layer.weight.requires_grad_(False)
    net(torch.randn(2, 2, 100)).sum().backward()
    assert all(layer.weight.grad is None for layer in net.modules() if isinstance(layer, LongFilterConv2d))
    assert net.net.groups[0][0].bottleneck.weight.grad.abs().max() > 0
