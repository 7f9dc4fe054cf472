"""The gains of any network are those of reverse mode, or it is refused: networks of odd kinds, each held against the definition."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pixeltrust import Batch, pixel_gains, reweighted_step, verify
from pixeltrust.method import tangents
from pixeltrust.method.tangents import FORWARD_MODE, REVERSE_MODE, RULES, get_choice
from pixeltrust.plumbing.errors import GainsWarning
from reference import Doubled, assert_equal_to_rounding, batch, differentiated_gains, network, seeded, textbook_losses

NOISY, CLEAN = batch(1, size=6, ignored=0), batch(2, size=6, ignored=0)


class Net(nn.Module):
    """A layer, `function` of what it gives (and of the network), and a head."""

    def __init__(self, function, channels=4):
        super().__init__()
        self.first, self.head, self.function = nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, 1, 1), function
        self.hidden = [self.first.weight]  # where no table of the module knows it

    def forward(self, images):
        return self.head(self.function(self, self.first(images)))


def net(function, **settings):
    return seeded(lambda: Net(function, **settings))


def by_definition(model, noisy=NOISY, clean=CLEAN, loss=textbook_losses):
    """⟨∇ℓ_p, ∇L_c⟩ by a backward for every pixel."""
    model = copy.deepcopy(model)
    parameters = list(model.parameters())
    torch.manual_seed(7)
    v = torch.autograd.grad(loss(model(clean.images), clean.masks).mean(), parameters, allow_unused=True)
    losses = loss(model(noisy.images), noisy.masks)
    gains = []
    for value in losses.flatten():
        gradient = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        gains.append(sum((g * w).sum() for g, w in zip(gradient, v, strict=True) if g is not None and w is not None))
    return torch.stack(gains).view(losses.shape)


class NoJvp(torch.autograd.Function):
    """A swish that saves memory, as EfficientNets have it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return gradient * s * (1 + x * (1 - s))


class StraightThrough(torch.autograd.Function):
    """Its backward is not its derivative."""

    @staticmethod
    def forward(ctx, x):
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class OtherJvp(Doubled):
    """Its jvp is not what its backward is."""

    @staticmethod
    def jvp(ctx, tangent):
        return 3 * tangent


class Once(torch.autograd.Function):
    """Its backward cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


@torch.library.custom_op("pixeltrust_tests::cubed", mutates_args=())
def cubed(x: torch.Tensor) -> torch.Tensor:
    return x * x * x


cubed.register_autograd(lambda ctx, g: 3 * g * ctx.x * ctx.x, setup_context=lambda ctx, inputs, output: setattr(ctx, "x", inputs[0]))


def written(x, part):
    """Writing into part of a tensor: what the rules do not follow."""
    whole = torch.zeros_like(x)
    whole[:, :1] = part[:, :1]
    return whole


def frozen_gate(x):
    with torch.no_grad():
        return x.sigmoid()


def sampled(x):
    grid = F.affine_grid(torch.eye(2, 3, dtype=x.dtype).repeat(len(x), 1, 1) * 0.9, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


class Box:
    """What torch does not look into."""

    def __init__(self, content):
        self.content = content


def recurrent(model, x):
    lstm = model.__dict__.setdefault("lstm", seeded(lambda: nn.LSTM(6, 6, batch_first=True).requires_grad_(False)))
    return x + lstm(x.flatten(1, 2))[0].view(x.shape)


ODD = {
    "custom-op": (lambda m, x: cubed(x) + x, RULES),
    "complex": (lambda m, x: torch.fft.fft2(x).abs(), RULES),
    "complex-parts": (lambda m, x: torch.fft.rfft2(x).real.mean() * x + torch.view_as_real(torch.fft.fft2(x)).square().sum(-1), RULES),
    "tensor-where": (lambda m, x: x.where(x > 0, 0.1 * x), RULES),
    "broadcast-clamp": (lambda m, x: x[:, :1].clamp(min=torch.zeros_like(x)) + x[:, :1].clamp(max=x * 0.5), RULES),
    "broadcast-power": (lambda m, x: (x[:, :1].square() + 1) ** torch.arange(1.0, 5).to(x.dtype).view(4, 1, 1) + 2.0**x, RULES),
    "weight-norm": (lambda m, x: x * torch._weight_norm(m.first.weight, m.first.bias[:, None, None, None], 0).mean(), RULES),
    "grid-sample": (lambda m, x: sampled(x), RULES),
    "grid-sample-of-a-grid": (lambda m, x: F.grid_sample(x, x[:, :2].movedim(1, -1).tanh(), align_corners=False), RULES),
    "leaf-of-its-own": (lambda m, x: x * (torch.zeros_like(x, requires_grad=True) + x), RULES),
    "leaf-of-its-own-off-the-rules": (lambda m, x: torch.zeros_like(x, requires_grad=True) + written(x, x), FORWARD_MODE),
    "lstm": (recurrent, RULES),
    "parameter-out-of-the-table": (lambda m, x: x * m.hidden[0].mean(), RULES),
    "gradient-scaled-by-no-grad": (lambda m, x: x * frozen_gate(x), RULES),
    "fake-quantised": (lambda m, x: torch.fake_quantize_per_tensor_affine(x.float(), 0.1, 0, -128, 127).to(x.dtype) + x, None),
    "scripted": (lambda m, x: torch.jit.script(nn.Sigmoid())(x) * x, RULES),
    "hidden-in-an-object": (lambda m, x: Box(x).content * 2, RULES),
    "written-into": (lambda m, x: x + written(x, x * x), FORWARD_MODE),
    "no-grad-off-the-rules": (lambda m, x: x * frozen_gate(x) + written(x, x * x), FORWARD_MODE),
    "in-place-without-gradient-off-the-rules": (lambda m, x: written(x, x * x) + shifted_unseen(x * 2), FORWARD_MODE),
    "out-of-the-table-off-the-rules": (lambda m, x: x * m.hidden[0].mean() + written(x, x), FORWARD_MODE),
    "custom-op-off-the-rules": (lambda m, x: cubed(x) + written(x, x), REVERSE_MODE),
    "custom-function-without-jvp": (lambda m, x: NoJvp.apply(x), REVERSE_MODE),
    "straight-through": (lambda m, x: StraightThrough.apply(x), REVERSE_MODE),
    "another-jvp-than-backward": (lambda m, x: OtherJvp.apply(x), REVERSE_MODE),
    "grid-sample-off-the-rules": (lambda m, x: sampled(x) + written(x, x), REVERSE_MODE),
}


def shifted_unseen(x):
    with torch.no_grad():
        x += 1
    return x * x


@pytest.mark.filterwarnings("ignore::pixeltrust.plumbing.errors.GainsWarning")
@pytest.mark.parametrize("name", ODD)
def test_a_network_of_an_odd_kind_has_the_gains_of_reverse_mode(name):
    function, way = ODD[name]
    model = net(function)
    expected = by_definition(model)
    tolerance = 1e-9 if name != "fake-quantised" else 1e-4  # it computes in float32
    for _ in range(2):  # known by the second time
        torch.manual_seed(7)
        assert_equal_to_rounding(pixel_gains(model, noisy=NOISY, clean=CLEAN), expected, rtol=tolerance)
        step_model = copy.deepcopy(model)
        assert_equal_to_rounding(reweighted_step(step_model, noisy=NOISY, clean=CLEAN).gains, expected, rtol=tolerance)
    if way is not None:
        assert get_choice(model).way is way


FEW = ("plain-batch-norm", "patches")


@pytest.mark.parametrize("way", [FORWARD_MODE, REVERSE_MODE], ids=lambda way: way.name)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in (*FEW, "basic-unet", "attention-unet", "unetr")]
)
def test_every_exact_way_gives_the_gains_of_the_differentiated_step(name, way, monkeypatch):
    monkeypatch.setattr(tangents, "WAYS", (way,))
    size = 16
    noisy, clean = batch(1, size=size), batch(2, size=size)
    gains = pixel_gains(network(name), noisy=noisy, clean=clean)
    assert_equal_to_rounding(gains, differentiated_gains(network(name), noisy=noisy, clean=clean))


@pytest.mark.parametrize("way", [RULES, FORWARD_MODE, REVERSE_MODE], ids=lambda way: way.name)
def test_every_exact_way_trains_alike(way, monkeypatch):
    expected = network("monai-unet-batch")
    reweighted_step(expected, noisy=NOISY, clean=CLEAN, clean_weight=0.5)
    monkeypatch.setattr(tangents, "WAYS", (way,))
    model = network("monai-unet-batch")
    reweighted_step(model, noisy=NOISY, clean=CLEAN, clean_weight=0.5)
    for actual, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, wanted.grad, rtol=1e-9, atol=1e-14)  # of a bias before a norm it is 0 but for rounding
    for actual, wanted in zip(model.buffers(), expected.buffers(), strict=True):
        assert_equal_to_rounding(actual, wanted)


def test_another_way_is_said_once_with_the_reason():
    model = net(lambda m, x: NoJvp.apply(x))
    with pytest.warns(
        GainsWarning, match="two reverse passes.*not by rules: NoJvpBackward, which torch does not show.*not by forward mode: .*jvp"
    ) as said:
        pixel_gains(model, noisy=NOISY, clean=CLEAN)
    assert len(said) == 1
    pixel_gains(model, noisy=NOISY, clean=CLEAN)  # in silence: here a warning is an error


def test_where_no_exact_way_is_right_the_refusal_names_what_stands_in_the_way():
    model = net(lambda m, x: Once.apply(x))
    with pytest.raises(
        ValueError, match=r'Net has no exact gains; not by rules: .*; not by two reverse passes: .*others: Once.*gains="fin'
    ):
        pixel_gains(model, noisy=NOISY, clean=CLEAN)
    difference = pixel_gains(model, noisy=NOISY, clean=CLEAN, gains="finite-difference")
    expected = by_definition(model)
    torch.testing.assert_close(difference, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("function", [StraightThrough.apply, lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127)])
def test_a_finite_difference_that_is_not_what_the_backward_takes_is_refused(function):
    model = net(lambda m, x: function(x)).float()
    noisy, clean = (Batch(b.images.float(), b.masks) for b in (NOISY, CLEAN))
    with pytest.raises(ValueError, match=r'off from the backward of Net.*straight-through.*use gains="exact"'):
        pixel_gains(model, noisy=noisy, clean=clean, gains="finite-difference")


def test_a_finite_difference_moves_parameters_that_no_table_knows():
    model = net(lambda m, x: x * m.hidden[0].mean())
    expected = by_definition(model)
    actual = pixel_gains(model, noisy=NOISY, clean=CLEAN, gains="finite-difference")
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_wrong_rule_does_not_go_unnoticed(monkeypatch):
    model, expected = net(lambda m, x: x.tanh()), by_definition(net(lambda m, x: x.tanh()))

    def wrong(function, x, *args, **kwargs):
        yield function(x.value, *args, **kwargs)
        yield 1.1 * x.tangent

    monkeypatch.setitem(tangents.Tangents.__torch_function__.__globals__["_RULES"], torch.Tensor.tanh, wrong)
    with pytest.warns(GainsWarning, match="not by rules: it is .* off from the network's backward"):
        assert_equal_to_rounding(pixel_gains(model, noisy=NOISY, clean=CLEAN), expected)


def test_a_way_that_no_longer_works_is_left_for_another_without_a_trace():
    """A network that takes another branch: statistics count once, and dropout draws what it would have."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.odd = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), False

        def forward(self, images):
            x = F.dropout(self.norm(self.conv(images)), 0.5, self.training)
            return x + written(x, x) if self.odd else x

    model = seeded(Branches)
    pixel_gains(model, noisy=NOISY, clean=CLEAN)
    model.odd, twin = True, seeded(Branches)
    twin.odd = True
    torch.manual_seed(3)
    with pytest.warns(GainsWarning):
        first = reweighted_step(model, noisy=NOISY, clean=CLEAN)
    torch.manual_seed(3)
    twin(CLEAN.images)
    twin.norm.reset_running_stats()
    assert_equal_to_rounding(first.logits, twin(NOISY.images).detach())
    assert model.norm.num_batches_tracked == 1
    assert_equal_to_rounding(model.norm.running_mean, twin.norm.running_mean)


@pytest.mark.filterwarnings("ignore::pixeltrust.plumbing.errors.GainsWarning")
@pytest.mark.parametrize(
    "function", [lambda x: x + written(x, x), lambda x: NoJvp.apply(x), lambda x: x], ids=["forward", "reverse", "rules"]
)
def test_the_first_step_draws_dropout_as_every_other(function):
    model = net(lambda m, x: function(F.dropout(x, 0.5, m.training)))
    gains = []
    for _ in range(3):
        torch.manual_seed(5)
        gains.append((pixel_gains(model, noisy=NOISY, clean=CLEAN), torch.get_rng_state()))
    for gain, state in gains[1:]:
        assert torch.equal(gain, gains[0][0])
        assert torch.equal(state, gains[0][1])


def test_statistics_count_once_in_an_operation_that_is_computed_twice():
    class Direct(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)

        def forward(self, images):
            norm = self.norm
            return torch.batch_norm(self.conv(images), norm.weight, norm.bias, norm.running_mean, norm.running_var, True, 0.1, 1e-5, False)

    model, plain = seeded(Direct), seeded(Direct)
    assert_equal_to_rounding(reweighted_step(model, noisy=NOISY, clean=CLEAN).gains, by_definition(plain))
    plain(NOISY.images)
    assert get_choice(model).way is RULES
    assert_equal_to_rounding(model.norm.running_mean, plain.norm.running_mean)


# --- hooks, checkpoints, what a network keeps -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # torch's, of a network whose images need no gradient
def test_full_backward_hooks_work_and_see_the_gradient_of_training():
    model, seen = net(lambda m, x: x.relu()), []
    expected, plain = by_definition(model), copy.deepcopy(model)
    reweighted_step(plain, noisy=NOISY, clean=CLEAN)
    model.head.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    with pytest.warns(GainsWarning, match="two reverse passes"):
        step = reweighted_step(model, noisy=NOISY, clean=CLEAN)
    assert_equal_to_rounding(step.gains, expected)
    assert_equal_to_rounding(model.first.weight.grad, plain.first.weight.grad)
    assert seen[-1].any()


class Recomputed(nn.Module):
    """Layers in one activation checkpoint, counted as they run."""

    def __init__(self, layers):
        super().__init__()
        self.runs = 0
        body = [
            layer
            for _ in range(layers)
            for layer in (nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Dropout(0.2))
        ]
        self.body, self.first, self.head = nn.Sequential(*body), nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)
        for layer in self.body:
            layer.register_forward_hook(self._count)

    def _count(self, *_):
        self.runs += 1

    def forward(self, images):
        return self.head(checkpoint(self.body, self.first(images), use_reentrant=False))


def runs_of_a_step(layers):
    """How often a layer runs, in ordinary training on both batches and in a weighted step."""
    model = seeded(Recomputed, layers)
    for _ in range(2):  # which test the gains as well
        reweighted_step(model, noisy=NOISY, clean=CLEAN, clean_weight=1.0)
    model.runs = 0
    for one in (NOISY, CLEAN):
        textbook_losses(model(one.images), one.masks).mean().backward()
    ordinary, model.runs = model.runs, 0
    reweighted_step(model, noisy=NOISY, clean=CLEAN, clean_weight=1.0)
    return ordinary / layers, model.runs / layers


def test_activation_checkpointing_computes_nothing_again_but_what_training_does():
    for layers in (2, 8):
        ordinary, weighted = runs_of_a_step(layers)
        assert weighted == ordinary


def test_activation_checkpointing_gives_the_same_gains_and_counts_statistics_once():
    model, plain = seeded(Recomputed, 2), seeded(Recomputed, 2)
    plain.forward = lambda images: plain.head(plain.body(plain.first(images)))
    torch.manual_seed(4)
    step = reweighted_step(model, noisy=NOISY, clean=CLEAN, clean_weight=1.0)
    torch.manual_seed(4)
    expected = reweighted_step(plain, noisy=NOISY, clean=CLEAN, clean_weight=1.0)
    assert_equal_to_rounding(step.gains, expected.gains)
    assert model.body[1].num_batches_tracked == 2  # the clean batch and the noisy one
    assert_equal_to_rounding(model.body[1].running_mean, plain.body[1].running_mean)


def test_reentrant_checkpointing_is_refused_in_words():
    model = net(lambda m, x: checkpoint(torch.relu, x, use_reentrant=True))
    with pytest.raises(ValueError, match="use_reentrant=False"):
        pixel_gains(model, noisy=NOISY, clean=CLEAN)


class Auxiliary(nn.Module):
    """Keeps a loss of its own for the training loop, as routers do."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)

    def forward(self, images):
        x = self.first(images)
        self.auxiliary = x.square().mean()
        return self.head(x)


def test_an_auxiliary_loss_that_the_network_keeps_has_its_gradient():
    model, plain = seeded(Auxiliary), seeded(Auxiliary)
    pixel_gains(model, noisy=NOISY, clean=CLEAN)
    plain(NOISY.images)
    (2 * model.auxiliary).backward()
    (2 * plain.auxiliary).backward()
    assert model.auxiliary.item() == plain.auxiliary.item()
    assert_equal_to_rounding(model.first.weight.grad, plain.first.weight.grad)


def test_an_auxiliary_loss_whose_graph_the_step_has_used_is_not_lost_in_silence():
    model = seeded(Auxiliary)
    reweighted_step(model, noisy=NOISY, clean=CLEAN)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        model.auxiliary.backward()


# --- answers, masks, losses -----------------------------------------------------------------------------------------------


class Answering(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.conv, self.wrap = nn.Conv2d(1, 1, 3, padding=1), wrap

    def forward(self, images):
        return self.wrap(self.conv(images))


@pytest.mark.parametrize("gains", ["exact", "finite-difference"])
def test_the_logits_are_picked_from_what_the_network_answers(gains):
    plain = seeded(Answering, lambda z: z)
    expected = reweighted_step(plain, noisy=NOISY, clean=CLEAN, clean_weight=1.0, gains=gains)
    model = seeded(Answering, lambda z: {"aux": [z * 2], "out": z})
    step = reweighted_step(model, noisy=NOISY, clean=CLEAN, clean_weight=1.0, gains=gains, logits=lambda answer: answer["out"])
    assert_equal_to_rounding(step.weights, expected.weights)
    assert_equal_to_rounding(model.conv.weight.grad, plain.conv.weight.grad)
    assert_equal_to_rounding(
        pixel_gains(model, noisy=NOISY, clean=CLEAN, gains=gains, logits=lambda answer: answer["aux"][0] / 2), step.gains
    )


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda z: {"out": z}, r"a dict of 'out'.*logits=lambda answer: answer\['out'\]"),
        (lambda z: [z, z[..., ::2, ::2]], r"a list.*logits=lambda answer: answer\[0\]"),
        (lambda z: (z, z.mean()), r"a tuple.*logits=lambda answer: answer\[0\]"),
    ],
)
@pytest.mark.parametrize("function", [pixel_gains, reweighted_step, verify])
def test_an_answer_that_is_not_a_tensor_is_refused_with_the_way_out(function, wrap, said):
    with pytest.raises(TypeError, match=said):
        function(seeded(Answering, wrap), noisy=NOISY, clean=CLEAN)


PICTURE = Batch(NOISY.images, NOISY.masks * 255)


@pytest.mark.parametrize("function", [pixel_gains, reweighted_step, verify])
@pytest.mark.parametrize("which", ["noisy", "clean"])
def test_masks_of_0_and_255_alone_are_refused_for_one_logit(function, which):
    batches = {"noisy": NOISY, "clean": CLEAN, which: PICTURE}
    with pytest.raises(ValueError, match=r"no foreground.*masks / 255.*ignore_label=255"):
        function(network("plain"), **batches)


def test_masks_of_0_and_255_alone_are_taken_where_it_is_said_that_255_is_ignored():
    ignored = Batch(PICTURE.images, PICTURE.masks, ignore_label=255)
    gains = pixel_gains(network("plain"), noisy=ignored, clean=CLEAN)
    assert torch.equal(gains == 0, PICTURE.masks == 255)
    two_logits = network("plain", classes=2)
    assert torch.equal(pixel_gains(two_logits, noisy=PICTURE, clean=CLEAN) == 0, PICTURE.masks == 255)


def test_another_label_can_be_ignored():
    masks = NOISY.masks.clone()
    masks[:, :2] = 7
    expected = pixel_gains(network("plain"), noisy=Batch(NOISY.images, masks.masked_fill(masks == 7, 255)), clean=CLEAN)
    assert torch.equal(pixel_gains(network("plain"), noisy=Batch(NOISY.images, masks, ignore_label=7), clean=CLEAN), expected)
    masks[0, 5] = 255
    with pytest.raises(ValueError, match="255, which is always ignored, beside ignore_label=7"):
        Batch(NOISY.images, masks, ignore_label=7)


@pytest.mark.parametrize("name", ["images", "masks"])
def test_arrays_of_numpy_are_refused_in_words(name):
    arrays = {"images": NOISY.images, "masks": NOISY.masks}
    arrays[name] = arrays[name].numpy()
    with pytest.raises(TypeError, match=rf"{name} must be a torch tensor, not numpy.ndarray: torch.as_tensor\({name}\)"):
        Batch(**arrays)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.to(z.dtype)),
        lambda z, y: F.binary_cross_entropy_with_logits(z, y[:, None].to(z.dtype), reduction="none"),
    ],
    ids=["scalar", "with-channels"],
)
@pytest.mark.parametrize("function", [pixel_gains, reweighted_step, verify])
def test_a_pixel_loss_of_another_shape_is_refused(function, loss):
    with pytest.raises(ValueError, match=r"pixel_loss must give a loss for every pixel, \(2, 6, 6\), not \("):
        function(network("plain"), noisy=NOISY, clean=CLEAN, pixel_loss=loss)


# --- what becomes of the gradient ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clean_weight", [0.0, 0.7])
def test_a_backward_of_ones_own_takes_all_of_the_gradient(clean_weight):
    """Scaled by a quarter, as accumulation over four steps does it; λ v is scaled with the rest."""
    model, plain = network("basic-unet"), network("basic-unet")
    noisy, clean = batch(1), batch(2)
    expected = reweighted_step(plain, noisy=noisy, clean=clean, clean_weight=clean_weight)
    step = reweighted_step(model, noisy=noisy, clean=clean, clean_weight=clean_weight, backward=lambda loss: (loss / 4).backward())
    assert_equal_to_rounding(step.loss, expected.loss)
    for actual, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(4 * actual.grad, wanted.grad, rtol=1e-9, atol=1e-14)


def steps(model, after, number=4):
    for _ in range(number):
        reweighted_step(model, noisy=NOISY, clean=CLEAN, clean_weight=1.0)
        after(model)


def test_gradients_that_are_thrown_away_are_said_once():
    with pytest.warns(GainsWarning, match=r"no parameter has changed.*optimizer.step\(\) before .grad is emptied") as said:
        steps(network("plain"), lambda model: model.zero_grad())
    assert len(said) == 1
    with pytest.warns(GainsWarning, match="no parameter has changed"):
        steps(network("plain"), lambda model: model.zero_grad(set_to_none=False))


def test_gradients_that_are_used_or_gathered_are_no_loss():
    def by_data(model):
        for parameter in model.parameters():
            parameter.data.sub_(0.01 * parameter.grad)
        model.zero_grad()

    def by_optimizer(model):
        torch.optim.SGD(model.parameters(), 0.01).step()
        model.zero_grad()

    for after in (by_data, by_optimizer, lambda model: None):
        steps(network("plain"), after)


# --- verify ---------------------------------------------------------------------------------------------------------------


def test_verify_says_that_gains_are_right_and_what_a_step_costs():
    found = verify(network("plain-batch-norm"), noisy=NOISY, clean=CLEAN)
    assert found.right
    assert found.pixels == 4
    assert found.difference < 1e-12
    assert found.cost > 0
    assert "PlainUNet: exact gains by rules for each operation" in str(found)
    assert "the gains are right" in str(found)
    assert "ordinary steps" in str(found)


@pytest.mark.filterwarnings("ignore::pixeltrust.plumbing.errors.GainsWarning")
def test_verify_names_the_way_the_reason_and_the_operations_without_a_rule():
    found = verify(net(lambda m, x: cubed(cubed(x)) + x.logsumexp(1, keepdim=True)), noisy=NOISY, clean=CLEAN, cost=False)
    assert found.without_rule == {"pixeltrust_tests::cubed": 2, "logsumexp": 1}
    assert "take a second pass each: pixeltrust_tests::cubed (2), logsumexp (1)" in str(found)
    assert found.cost is None
    found = verify(net(lambda m, x: NoJvp.apply(x)), noisy=NOISY, clean=CLEAN, cost=False)
    assert "by two reverse passes" in found.way
    assert "custom autograd function" in found.way


def test_sampling_and_functions_of_anothers_shape_need_no_second_pass():
    model = net(lambda m, x: sampled(x).expand_as(x) * torch.ones(6, dtype=x.dtype).expand_as(x) + torch.as_tensor(x).type_as(x).view_as(x))
    assert not verify(model, noisy=NOISY, clean=CLEAN, cost=False).without_rule


def test_verify_finds_gains_that_are_wrong(monkeypatch):
    def wrong(model, images, direction, pick):
        logits, tangent = RULES.tangent(model, images, direction, pick)
        return logits, tangent * torch.linspace(0.5, 1.5, tangent[0].numel()).view(tangent[0].shape)

    monkeypatch.setattr(tangents, "WAYS", (tangents.Way("rules", wrong, "by chance"),))
    monkeypatch.setattr(tangents, "tangent_error", lambda *args, **kwargs: 0.0)
    found = verify(network("plain"), noisy=NOISY, clean=CLEAN, cost=False)
    assert not found.right
    assert "WRONG" in str(found)


@pytest.mark.parametrize("gains", ["exact", "finite-difference"])
def test_verify_leaves_the_model_as_it_was(gains):
    model = seeded(Recomputed, 2)
    for parameter in model.parameters():
        parameter.grad = torch.rand_like(parameter)
    before = [tensor.clone() for tensor in (*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters()))]
    state = torch.get_rng_state()
    verify(model, noisy=NOISY, clean=CLEAN, gains=gains)
    after = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    assert all(map(torch.equal, after, before))
    assert torch.equal(torch.get_rng_state(), state)


def test_verify_says_where_there_is_nothing_to_compare():
    nothing = Batch(CLEAN.images, torch.full_like(CLEAN.masks, 255), ignore_label=255)
    found = verify(network("plain"), noisy=NOISY, clean=nothing, cost=False)
    assert found.pixels == 0
    assert "no pixel could be compared" in str(found)
