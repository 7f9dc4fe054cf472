"""The forward-mode rules against torch's own forward mode, operation by operation, in float64."""

import copy
import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pixeltrust import pixel_gains, reweighted_step
from pixeltrust.method.forward_mode import linear, pointwise, products, tracing
from pixeltrust.method.forward_mode.fallback import fallback_rule
from pixeltrust.method.forward_mode.rules import CannotTrace
from pixeltrust.method.forward_mode.tracing import Tangents
from pixeltrust.method.module_state import keep_buffers
from pixeltrust.method.tangents import exact_tangent, forward_mode_tangent
from pixeltrust.method.weights import clean_gradient
from reference import NETWORKS, Doubled, assert_equal_to_rounding, batch, network, seeded


class Weights(nn.Module):
    """`function` of the images and of parameters a, b of the shapes given."""

    def __init__(self, function, *shapes):
        super().__init__()
        self.function = function
        self.factors = nn.ParameterList([torch.randn(shape) for shape in shapes])

    def forward(self, images):
        return self.function(images, *self.factors)


IMAGE = (2, 4, 6, 6)
SCALED = {  # of x = images · a, so that x has a tangent
    "reshape": lambda x: x.reshape(2, 4, 36).view(2, 2, 2, 6, 6).flatten(1, 2).permute(0, 2, 3, 1).transpose(1, 3),
    "as": lambda x: x[:, :1].expand_as(x) + x.reshape(2, 4, 36).view_as(x).type_as(x) + torch.ones(6, 6).expand_as(x).type_as(x) * x,
    "squeeze": lambda x: x.unsqueeze(1).expand(2, 3, 4, 6, 6).squeeze(1)[:, 1],
    "getitem": lambda x: x[:, 1:3, ..., ::2],
    "T": lambda x: x.mT.contiguous().clone(),
    "flip": lambda x: torch.roll(x.flip(-1), 1, 2).rot90(1, (2, 3)),
    "chunk": lambda x: torch.cat([part * (i + 2) for i, part in enumerate(x.chunk(2, 1))], 1),
    "unbind": lambda x: torch.stack([x.unbind(1)[2], x.split(1, 1)[0].squeeze(1)]),
    "sum": lambda x: x.sum((2, 3), keepdim=True) + x.mean(1, keepdim=True),
    "dtype": lambda x: x.float().to(torch.float64) + torch.as_tensor(x) * x.float().type(torch.float64).cpu(),
    "cat-with-constant": lambda x: torch.cat([x, torch.ones_like(x), x], 1),
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)) + torch.where(x > 0, 2.0, x * x),
    "masked-fill": lambda x: x.masked_fill(x > 0.3, -7.0),
    "pad-constant": lambda x: F.pad(x, (1, 2), value=3.0),
    "pad-replicate": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "pad-reflect": lambda x: F.pad(x, (1, 1, 1, 1), "reflect"),
    "add": lambda x: x + 1 + x * 2 + (3 - x) - (x - 5) + torch.add(x, x, alpha=3) + torch.ones(6, dtype=x.dtype),
    "sub": lambda x: torch.ones(4, 1, 1, dtype=x.dtype) - x - torch.sub(x, x * x, alpha=2),
    "mul": lambda x: x * x * torch.ones(6, dtype=x.dtype) * 0.5,
    "div": lambda x: x / (x.square() + 1) + 1 / (x.square() + 2) + x / 3,
    "in-place": lambda x: (x * 1).add_(x).mul_(3).sub_(1).div_(2).add_(torch.ones_like(x)),
    "augmented": lambda x: augmented(x * 1, x),
    "matmul": lambda x: x @ x.mT + torch.einsum("bchw,bcvw->bchv", x, x),
    "pow": lambda x: x**2 + x.pow(3) + (x * x + 1).sqrt() + (x * x + 1).rsqrt() + (x * x + 1).log() + x.exp(),
    "functions": lambda x: x.abs() + x.sin() + x.cos() + x.erf() + x.clamp(-0.5, 0.5) + x.clamp_min(0) + x.sigmoid() + x.tanh(),
    "relu": lambda x: F.relu(x) + F.relu(x * 1, inplace=True) + torch.relu(x) + (x * 1).relu_() + F.relu6(x) + F.threshold(x, 0.1, 0.2),
    "leaky": lambda x: F.leaky_relu(x, 0.1) + F.leaky_relu(x * 1, 0.1, inplace=True) + F.elu(x) + F.selu(x) + F.celu(x),
    "gelu": lambda x: F.gelu(x) + F.gelu(x, approximate="tanh") + F.silu(x) + F.mish(x) + F.softplus(x) + F.softsign(x),
    "hard": lambda x: F.hardtanh(x) + F.hardswish(x) + F.hardsigmoid(x) + F.logsigmoid(x) + F.silu(x * 1, inplace=True),
    "softmax": lambda x: F.softmax(x, 1) + x.softmax(-1),
    "log-softmax": lambda x: F.log_softmax(x, 1),  # no rule
    "max-pool": lambda x: F.max_pool2d(x, 2) + F.max_pool2d(x, 3, stride=2, padding=1) + nn.MaxPool2d(2)(x),
    "max-pool-ceil": lambda x: F.max_pool2d(x[..., 1:], 2, ceil_mode=True) + torch.max_pool2d(x[..., :4, :], 2, 2, 0, 1, True).mean(),
    "max-unpool": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "max-pool-1-3": lambda x: F.max_pool1d(x[:, 0], 2).sum() + F.max_pool3d(x, 2),
    "average-pool": lambda x: F.avg_pool2d(x, 2) + F.adaptive_avg_pool2d(x, 3) + F.adaptive_max_pool2d(x, 3),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2) + F.interpolate(x, (12, 12), mode="bilinear", align_corners=True),
    "shuffle": lambda x: F.pixel_shuffle(x, 2) + F.interpolate(x[:, :1], (12, 12), mode="bicubic"),
    "attention": lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1),
    "attention-causal": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
    "attention-masked": lambda x: (
        F.scaled_dot_product_attention(x, x, x, torch.ones(6, 6).tril() > 0) + F.scaled_dot_product_attention(x, x, x, x)
    ),
    "questions": lambda x: x * x.shape[1] * x.size(2) * x.dim() * len(x) * (2 if x.is_floating_point() and x.requires_grad else 9),
    "detached": lambda x: x * x.detach() + x.data,
    "counted": lambda x: x * (x > 0).sum() + x * x.argmax(1, keepdim=True),
    "top": lambda x: x.max(1)[0] + x.topk(2, 1).values.sum(1) + x.amax(1) + x.var(1) + x.norm(dim=1) + x.logsumexp(1),
    "two-values": lambda x: torch.std_mean(x, 1)[1] * torch.std_mean(x, 1)[0],
    "properties": lambda x: x.H.mT if x.ndim == 2 else x.mH + x.real,
}
LAYERED = {  # functions of the images and parameters
    "conv": (lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1), (3, 4, 3, 3), (3,)),
    "conv-keywords": (lambda x, w, b: F.conv2d(input=x * b[0], weight=w, bias=b, padding="same"), (3, 4, 3, 3), (3,)),
    "conv-groups": (lambda x, w, v: F.conv2d(F.conv2d(x, w, groups=2, dilation=2), v), (4, 2, 3, 3), (2, 4, 1, 1)),
    "conv-1-3": (lambda x, w, v: F.conv1d(x[:, 0] * w.sum(), w).sum() + F.conv3d(x[:, :, None] * w.sum(), v), (3, 6, 3), (2, 4, 1, 3, 3)),
    "transposed": (lambda x, w, b: F.conv_transpose2d(x * w.sum(), w, b, stride=2, output_padding=1), (4, 3, 3, 3), (3,)),
    "bias-alone": (lambda x, b: F.conv2d(x, torch.ones(3, 4, 1, 1, dtype=x.dtype), b), (3,)),
    "linear": (lambda x, w, b: F.linear(F.linear(x, w, b), w.mT), (5, 6), (5,)),
    "standardised": (lambda x, w: F.conv2d(x, (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)), (3, 4, 3, 3)),
    "group-norm": (lambda x, w, b: F.group_norm(F.group_norm(x, 2, w, b) + x, 4, b, w), (4,), (4,)),
    "group-norm-bare": (lambda x, w: F.group_norm(x * w, 2), (4, 1, 1)),
    "instance-norm": (lambda x, w, b: F.instance_norm(x * w[0], weight=w, bias=b) + F.instance_norm(x * b[1]), (4,), (4,)),
    "layer-norm": (lambda x, w, b: F.layer_norm(F.layer_norm(x, (6,), w, b), (4, 6, 6)), (6,), (6,)),
    "batch-norm": (lambda x, w, b: F.batch_norm(x * w[0], None, None, w, b, True), (4,), (4,)),
    "prelu": (lambda x, w, v: F.prelu(F.prelu(x, w), v), (4,), (1,)),
    "bilinear": (lambda x, w: torch.baddbmm(x[:, 0] * w, x[:, 1], x[:, 2] * w), (6, 6)),
    "parameters-alone": (lambda x, w, v: x * (w.T @ v).softmax(0).sum() + torch.cat([w, v]).mean(), (3, 3), (3, 3)),
    "embedding": (lambda x, w: F.embedding(torch.arange(4), w)[:, :, None] + x, (4, 6)),
}


def augmented(x, y):
    x += y
    x *= 2
    x -= y
    x /= 3
    return x


def cases():
    for name, function in SCALED.items():
        yield pytest.param(Weights(lambda x, a, f=function: f(x * a), IMAGE[1:]), id=name)
    for name, (function, *shapes) in LAYERED.items():
        yield pytest.param(Weights(function, *shapes), id=name)
    for name, layer in {
        "batch-norm-training": nn.BatchNorm2d(4),
        "batch-norm-evaluating": nn.BatchNorm2d(4).eval(),
        "batch-norm-without-affine": nn.BatchNorm2d(4, affine=False),
        "instance-norm-with-statistics": nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        "instance-norm-evaluating": nn.InstanceNorm2d(4, affine=True, track_running_stats=True).eval(),
        "multihead-attention": nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True),
    }.items():
        first = nn.Flatten(1, 2) if "attention" in name else nn.Conv2d(4, 4, 3)
        yield pytest.param(nn.Sequential(first, layer), id=name)


def prepared(model, seed=0):
    torch.manual_seed(seed)
    model = model.double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model, torch.randn(IMAGE, dtype=torch.float64), {p: torch.randn_like(p) for p in model.parameters()}


@pytest.mark.parametrize("model", list(cases()))
def test_a_rule_gives_what_torchs_forward_mode_gives(model):
    model, images, direction = prepared(model)
    with keep_buffers(model):
        logits, tangent = forward_mode_tangent(model, images, direction)
    with keep_buffers(model), Tangents(direction) as tangents:
        value, dual = tangents.dual(model(images))
    assert_equal_to_rounding(value.detach(), logits.detach())
    assert_equal_to_rounding(dual, tangent)
    assert not dual.requires_grad
    assert value.requires_grad


@pytest.mark.parametrize("model", list(cases()))
def test_the_recorded_values_have_the_gradient_of_an_ordinary_pass(model):
    model, images, direction = prepared(model)
    with keep_buffers(model):
        expected = torch.autograd.grad(model(images).square().sum(), list(direction))
    with keep_buffers(model), Tangents(direction) as tangents:
        value = tangents.dual(model(images)).value
    for actual, wanted in zip(torch.autograd.grad(value.square().sum(), list(direction)), expected, strict=True):
        assert_equal_to_rounding(actual, wanted)


@pytest.mark.parametrize("dims", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_usual_layers_all_have_rules(name, dims, monkeypatch):
    without_rule = []

    def noted(function, *args, **kwargs):
        steps = fallback_rule(function, *args, **kwargs)
        yield next(steps)
        without_rule.append(function.__name__)
        yield next(steps)

    for module in (tracing, linear, pointwise, products):
        monkeypatch.setattr(module, "fallback_rule", noted)
    model = network(name, dims)
    _, direction = clean_gradient(model, batch(2, dims=dims))
    exact_tangent(model, batch(1, dims=dims).images, direction)
    assert set(without_rule) == ({"multi_head_attention_forward"} if name == "patches" else set())


@pytest.mark.parametrize(
    "name", ["dyn-unet", "seg-res-net", *(pytest.param(name, marks=pytest.mark.slow) for name in ("basic-unet", "unetr"))]
)
def test_nothing_is_recorded_for_the_tangents(name):
    model, images = network(name), batch(1).images
    _, direction = clean_gradient(model, batch(2))
    plain = nodes(model(images))
    with Tangents(direction) as tangents:
        value = tangents.dual(model(images)).value
    assert nodes(value) <= plain
    assert nodes(forward_mode_tangent(model, images, direction)[0]) > plain  # so this test can fail


def nodes(logits):
    seen, left = set(), [logits.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [parent for parent, _ in node.next_functions]
    return len(seen)


def test_a_tangent_is_freed_as_soon_as_the_network_drops_its_value():
    model, images, direction = prepared(Weights(lambda x, a: x * a, IMAGE[1:]))
    with Tangents(direction):
        first = model(images)
        tangent = weakref.ref(first.tangent)
        second = F.gelu(first)  # records `first`
        del first
        assert tangent() is None
        assert second.tangent is not None


def written(x, part):
    whole = torch.zeros_like(x)
    whole[:, 1:] = part[:, 1:]
    return whole + x


OUT_OF_SIGHT = {
    "custom-function": lambda x: Doubled.apply(x) + x,
    "custom-function-last": lambda x: Doubled.apply(x),
    "written-into": lambda x: written(x, x * x),
    "view-in-place": lambda x: (lambda y: [y[:, :2].mul_(3), y][1])(x * 1),
    "viewed-then-in-place": lambda x: (lambda y: [y[:, :2], y.add_(x)][0])(x * 1),
    "copied": lambda x: torch.zeros_like(x).copy_(x),
    "added-to-a-constant": lambda x: (lambda y: [y.add_(x), y][1] * 2)(torch.zeros_like(x)),
    "product-in-place": lambda x: (x * 1).mul_(x),
}


@pytest.mark.filterwarnings("ignore::pixeltrust.plumbing.errors.GainsWarning")
@pytest.mark.parametrize("name", OUT_OF_SIGHT)
def test_what_cannot_be_traced_is_left_to_torchs_forward_mode(name):
    model, images, direction = prepared(Weights(lambda x, a: OUT_OF_SIGHT[name](x * a), IMAGE[1:]))
    expected = forward_mode_tangent(model, images, direction)
    with pytest.raises(CannotTrace), Tangents(direction) as tangents:
        tangents.dual(model(images))
    for _ in range(2):  # known by the second time
        for actual, wanted in zip(exact_tangent(model, images, direction), expected, strict=True):
            assert_equal_to_rounding(actual.detach(), wanted.detach())


@pytest.mark.filterwarnings("ignore::pixeltrust.plumbing.errors.GainsWarning")
def test_buffers_change_once_where_a_network_cannot_be_traced():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, images):
            return Doubled.apply(self.norm(images)) * 3

    model, images, direction = prepared(Mixed())
    exact_tangent(model, images, direction)
    assert model.norm.num_batches_tracked == 1


def test_a_part_without_gradient_has_no_tangent():
    """As in the differentiated step, and unlike torch's forward mode, which no_grad does not stop."""

    def function(x, a):
        scaled = x * a
        with torch.no_grad():
            gate = scaled.sigmoid()
            scaled.mul_(1)  # without a trace
        return scaled * gate

    model, images, direction = prepared(Weights(function, IMAGE[1:]))
    (v,) = direction.values()
    _, tangent = exact_tangent(model, images, direction)
    assert_equal_to_rounding(tangent, (images * v * (images * model.factors[0]).sigmoid()).detach())


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.Dropout2d(0.5), nn.AlphaDropout(0.5)], ids=lambda layer: type(layer).__name__)
def test_dropout_drops_the_same_in_value_and_tangent(layer):
    """For the first two tangent / value = v / a where not dropped; AlphaDropout, without a rule, has a constant where it drops."""
    model, images, direction = prepared(Weights(lambda x, a: layer(x * a), IMAGE[1:]))
    torch.manual_seed(5)
    after = exact_tangent(model, images, direction)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    expected = model(images)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(after[0], expected)
    dropped = expected == expected.flatten().mode().values
    assert 10 < dropped.sum() < dropped.numel() - 10
    assert torch.equal(after[1] == 0, dropped)


@pytest.mark.parametrize("name", ["basic-unet", "dyn-unet", "plain-batch-norm"])
def test_the_memory_format_makes_no_difference(name):
    noisy, clean = batch(1), batch(2)
    expected = pixel_gains(network(name), noisy=noisy, clean=clean)
    model = network(name).to(memory_format=torch.channels_last)
    assert_equal_to_rounding(pixel_gains(model, noisy=noisy, clean=clean), expected)


def test_a_network_that_is_not_all_differentiable_keeps_its_frozen_parts():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 1, 1)))
    model = model.double()
    model[0].requires_grad_(False)
    _, direction = clean_gradient(model, batch(2))
    expected = forward_mode_tangent(model, batch(1).images, direction)[1]
    assert_equal_to_rounding(exact_tangent(model, batch(1).images, direction)[1], expected)


class Checkpointed(nn.Module):
    """The network's layers are not kept for the backward, but computed again there."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, images):
        for layer in self.layers:
            images = checkpoint(layer, images, use_reentrant=False)
        return images


@pytest.mark.parametrize(
    "wrapped",
    [Checkpointed, pytest.param(partial(torch.compile, backend="eager"), marks=pytest.mark.slow)],
    ids=["checkpointed", "compiled"],
)
@pytest.mark.parametrize("gains", ["exact", "finite-difference"])
def test_a_wrapped_network_gives_the_same_step(wrapped, gains):
    noisy, clean = batch(1), batch(2)
    layers = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 1, 1))).double()
    expected = reweighted_step(plain := copy.deepcopy(layers), noisy=noisy, clean=clean, gains=gains)
    step = reweighted_step(wrapped(layers), noisy=noisy, clean=clean, gains=gains)
    assert_equal_to_rounding(step.weights, expected.weights)
    for parameter, wanted in zip(layers.parameters(), plain.parameters(), strict=True):
        assert_equal_to_rounding(parameter.grad, wanted.grad)
