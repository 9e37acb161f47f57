"""Networks of convolutions."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.onnx.torch_modules.example import BOTH, Example, Mean, Residual


def with_batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def resnet() -> nn.Module:
    def block() -> nn.Module:
        return Residual(
            nn.Sequential(nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, bias=False))
        )

    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), block(), nn.MaxPool2d(2), block(),
        nn.GroupNorm(2, 4), nn.SiLU(), Mean(2, 3), nn.Linear(4, 3),
    )  # fmt: skip


class SqueezeExcite(nn.Module):
    """Channels scaled by what their means say."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(width, 2, 1)
        self.up = nn.Conv2d(2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.up(torch.relu(self.down(functional.adaptive_avg_pool2d(x, 1))))
        return x * functional.hardsigmoid(scale)


def mobilenet() -> nn.Module:
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.Hardswish(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU6(),
        SqueezeExcite(4), nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):  # so that the gates depend on the input by enough
            nn.init.uniform_(layer.weight, -1.0, 1.0)
    return module


class UNet(nn.Module):
    """Down, and up by a transposed convolution and by interpolation, with the skips joined."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.second = nn.Conv2d(2, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.joined = nn.Conv2d(8, 3, 3, padding=1)
        self.last = nn.Conv2d(5, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = torch.relu(self.first(x))
        two = torch.relu(self.second(functional.max_pool2d(one, 2)))
        three = torch.relu(self.third(functional.avg_pool2d(two, 2)))
        two = torch.relu(self.joined(torch.cat([self.up(three), two], 1)))
        up = functional.interpolate(two, scale_factor=2, mode="bilinear", align_corners=False)
        output: Tensor = self.last(torch.cat([up, one], 1))
        return output


def upsampling() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Upsample(scale_factor=2), nn.Tanh(),
        nn.Conv2d(2, 2, 3), nn.Upsample(size=(6, 6), mode="bilinear", align_corners=True),
        nn.Conv2d(2, 1, 3, stride=2),
    )  # fmt: skip


def super_resolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1),
        nn.PixelShuffle(2), nn.PixelUnshuffle(4),
    )  # fmt: skip


def prelu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.PReLU(4), nn.Conv2d(4, 2, 2), nn.LayerNorm((2, 3, 3)), nn.PReLU(),
        Mean(2, 3), nn.Linear(2, 3),
    )  # fmt: skip


def instance_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.1),
        nn.Conv2d(4, 2, 3), nn.InstanceNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 4, 2, groups=2), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 4, 1, groups=4),
        nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, dilation=2, padding="same"), nn.ELU(),
        nn.Conv1d(4, 4, 3, dilation=3, padding=3, padding_mode="circular"), nn.GLU(1), Mean(-1),
        nn.Linear(2, 3),
    )  # fmt: skip


EXAMPLES = (
    Example("Conv2d with BatchNorm2d", with_batch_norm, ((2, 6, 6),), lost_in=BOTH),
    Example(
        "Conv2d with BatchNorm2d, any batch",
        with_batch_norm,
        ((2, 6, 6),),
        batch="free",
        lost_in=BOTH,
    ),
    Example("ResNet with GroupNorm", resnet, ((2, 6, 6),), lost_in=BOTH),
    Example("MobileNet-like", mobilenet, ((2, 8, 8),), lost_in=BOTH),
    Example("U-Net", UNet, ((1, 8, 8),)),
    Example("Upsample, any batch", upsampling, ((1, 4, 4),), batch="free"),
    Example("super-resolution by PixelShuffle", super_resolution, ((1, 4, 4),)),
    Example("PReLU", prelu, ((1, 6, 6),), lost_in=BOTH),
    Example("InstanceNorm2d", instance_norm, ((2, 6, 6),)),
    Example("Conv3d, grouped", conv3d, ((2, 3, 3, 3),)),
    Example("Conv1d, dilated", conv1d, ((2, 6),)),
)
