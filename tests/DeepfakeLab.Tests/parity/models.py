"""What torchvision makes of its own models, for the C# models to be compared with.

usage: models.py FOLDER SIZE STEPS NAME...   writes NAME.pth (a state dict) and NAME-result.pth (what comes of it, with so many steps of
                                            descent in float64 and five in float32) for each model
       models.py weights NAME...       prints a line for each official weight file with what is known of it
       models.py options FOLDER        writes state dict, input and logits of models made with constructor arguments, by the names below
       models.py rounding NAME...      prints how far torch's gradients and losses of five steps in float32 are from its own in float64
       models.py keys NAME...          prints a line for each model: name, parameters, multiply-adds at its input size, then key:shape of its state dict
"""
import copy
import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait starve whatever else runs
import torch
import torchvision


def features(model, x):
    """What enters the model's head, torchvision's way."""
    head = model.fc if hasattr(model, "fc") else model.classifier
    kept = []
    handle = head.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].detach().clone()))
    model(x)
    handle.remove()
    return kept[0]


def multiply_adds(model, x):
    """Of convolutions and linear layers, an image."""
    total = []

    def count(layer, _, output):
        total.append(output[0].numel() * (layer.weight.numel() // layer.weight.shape[0]))

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    model(x[:1])
    for handle in handles:
        handle.remove()
    return sum(total)


def sample(gradient):
    """All of it, or of a large one every 97th number."""
    return gradient.flatten()[:: 97 if gradient.numel() > 100_000 else 1].clone()


def descend(model, start, x, y, rate=None, steps=0):
    """The gradients and buffers of the first step of descent from the start, and the losses before, between and after all steps.

    Without a rate it is the one at which the first step lowers the loss by a hundredth, as far as the gradient tells: then the losses of
    five steps differ by many times the 1e-4 to which they are compared, and none leaps about. At one rate for all (1e-3) some models'
    first step is three times as long as their loss is high, and float32 loses its way: `models.py rounding` shows it.
    """
    model.load_state_dict(start)
    losses = []
    for step in range(steps + 1):
        model.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(x), y)
        losses.append(loss.item())
        if step == 0 or step < steps:
            loss.backward()
        if step == 0:
            gradients = {k: sample(p.grad) for k, p in model.named_parameters()}
            buffers = {k: b.clone() for k, b in model.named_buffers()}
            rate = rate or 0.01 * losses[0] / sum(torch.dot(p.grad.flatten(), p.grad.flatten()).item() for p in model.parameters())
            descent = torch.optim.SGD(model.parameters(), lr=rate)
        if step < steps:
            descent.step()
    return gradients, buffers, rate, torch.tensor(losses, dtype=torch.float64)


def rounding(exact, gradients):
    """How far float32 gradients are from float64 ones, a parameter, as a share of its norm; not a number where there is no gradient, as of a bias before batch norm."""
    largest = max(g.norm() for g in exact.values())
    return torch.tensor([(gradients[k] - g).norm() / g.norm() if g.norm() > 1e-9 * largest else torch.nan for k, g in exact.items()], dtype=torch.float64)


def without_chance(model):
    for m in model.modules():
        if isinstance(m, (torch.nn.Dropout, torchvision.ops.StochasticDepth)):
            m.p = 0.0
    return model.train(), copy.deepcopy(model).double(), copy.deepcopy(model.state_dict())


def smooth(model):
    """The model's state with batch norms that give 1.5 and a fifth of a normal number or so: far from the corners of ReLU, ReLU6 and Hardswish."""
    state = copy.deepcopy(model.state_dict())
    for name, m in model.named_modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            state[name + ".weight"] *= 0.2
            state[name + ".bias"] += 1.5
    return state


def results(model, size, steps64):
    x, y = torch.randn(4, 3, size, size), torch.arange(4)
    with torch.no_grad():
        model.eval()
        result = {"x": x, "y": y, "logits": model(x), "features": features(model, x), "multiply_adds": torch.tensor([multiply_adds(model, x)])}
    single, double, start = without_chance(model)
    pictures = x[:, :, :48, :48]  # double precision is slow, and below 48 batch norm sees one place an image

    def keep(suffix, gradients, buffers, rate=None, losses=None):
        result.update({f"gradient{suffix}/{k}": g for k, g in gradients.items()})
        result.update({f"buffer{suffix}/{k}": b for k, b in buffers.items()})
        result.update({f"losses{suffix}": losses, f"rate{suffix}": torch.tensor(rate, dtype=torch.float64)})

    exact = descend(double, start, pictures.double(), y, steps=steps64)
    keep("64", *exact)
    single32 = descend(single, start, pictures, y)
    keep("32", *single32)
    model.load_state_dict(start)
    start = smooth(model)
    steps = descend(single, start, pictures, y, steps=5)
    keep("smooth", *steps)
    result["own32"] = rounding(exact[0], single32[0])
    result["ownsmooth"] = rounding(descend(double, start, pictures.double(), y)[0], steps[0])
    return result


def random_model(name):
    torch.manual_seed(7)
    model = getattr(torchvision.models, name)()
    fresh = torch.tensor([v.double().sum().item() for v in model.state_dict().values()], dtype=torch.float64)
    for m in model.modules():  # buffers and affine parts that are not all 0 and 1, so that a mistake in them shows
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.uniform_(-0.1, 0.1)
            m.running_var.uniform_(0.8, 1.2)
            m.weight.data.uniform_(0.8, 1.2)
            m.bias.data.uniform_(-0.1, 0.1)
    return model, fresh


def write(folder, size, steps64, names):
    for name in names:
        model, fresh = random_model(name)
        torch.save(model.state_dict(), f"{folder}/{name}.pth")
        torch.save({"fresh": fresh, **results(model, size, steps64)}, f"{folder}/{name}-result.pth")


def compare_with_itself(names):
    for name in names:
        single, double, start = without_chance(random_model(name)[0])
        pictures, y = torch.randn(4, 3, 48, 48), torch.arange(4)
        for rate in (1e-3, None):
            exact = descend(double, start, pictures.double(), y, rate, steps=5)
            gradients, _, _, losses = descend(single, start, pictures, y, exact[2], steps=5)
            print(f"{name}, rate {exact[2]:.1e}: loss {exact[3][0]:.3f} to {exact[3][-1]:.3f}; torch's float32 is off its float64 by "
                  f"{((losses - exact[3]).abs() / exact[3]).max():.1e} in the losses, {rounding(exact[0], gradients).nan_to_num().max():.1e} in the gradients", flush=True)


def keys(names):
    for name in ("kaiming_uniform_", "kaiming_normal_", "uniform_", "normal_"):
        setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)  # the numbers do not matter here, and take long
    for name in names:
        model = getattr(torchvision.models, name)().eval().to("meta")  # where tensors have shapes and no numbers, so that large images cost nothing
        side = torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
        with torch.no_grad():
            count = multiply_adds(model, torch.empty(1, 3, side, side, device="meta"))
        print(name, sum(p.numel() for p in model.parameters()), count, *(f"{k}:{'x'.join(map(str, v.shape))}" for k, v in model.state_dict().items()))


def halved(block):
    """A block made by somebody else: half of what the family's own gives."""

    class Halved(block):
        def forward(self, x):
            return 0.5 * super().forward(x)

    return Halved


def options(folder):
    m, norm = torchvision.models, lambda channels: torch.nn.GroupNorm(4, channels)
    made = {
        "resnet50": m.resnet50(groups=2, width_per_group=48, replace_stride_with_dilation=[False, True, True], num_classes=7),
        "resnet18": m.resnet18(norm_layer=norm, num_classes=7),
        "resnet34": m.ResNet(m.resnet.Bottleneck, [3, 4, 6, 3], num_classes=7),
        "wide_resnet50_2": m.ResNet(m.resnet.BasicBlock, [3, 4, 6, 3], num_classes=7),
        "mobilenet_v2": m.mobilenet_v2(width_mult=0.35, round_nearest=4, norm_layer=norm, num_classes=7, block=halved(m.mobilenetv2.InvertedResidual),
                                       inverted_residual_setting=[[1, 16, 1, 1], [4, 24, 2, 2], [3, 48, 1, 2]]),
        "mobilenet_v3_large": m.mobilenet_v3_large(width_mult=0.75, reduced_tail=True, dilated=True, num_classes=7),
        "mobilenet_v3_small": m.mobilenet_v3_small(reduced_tail=True, dilated=True, norm_layer=norm, num_classes=7,
                                                   block=halved(m.mobilenetv3.InvertedResidual)),
        "efficientnet_b0": m.efficientnet_b0(norm_layer=norm, num_classes=7),
    }
    for name, model in made.items():
        x = torch.randn(2, 3, 64, 64)
        torch.save(model.state_dict(), f"{folder}/{name}.pth")
        with torch.no_grad():
            torch.save({"x": x, "logits": model.eval()(x)}, f"{folder}/{name}-result.pth")


def weights(names):
    for name in names:
        entries = torchvision.models.get_model_weights(name)
        for entry in sorted(entries, key=lambda e: (e is entries.DEFAULT, e.name)):
            t, accuracy = entry.transforms(), entry.meta["_metrics"]["ImageNet-1K"]
            print(name, entry.name, entry.url, accuracy["acc@1"], accuracy["acc@5"], t.resize_size[0], t.crop_size[0], t.interpolation.value,
                  *(f"{v:.5f}" for v in t.mean + t.std))


if sys.argv[1] == "keys":
    keys(sys.argv[2:])
elif sys.argv[1] == "options":
    options(sys.argv[2])
elif sys.argv[1] == "rounding":
    compare_with_itself(sys.argv[2:])
elif sys.argv[1] == "weights":
    weights(sys.argv[2:])
else:
    write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
