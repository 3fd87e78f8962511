"""Small models with residual blocks, for the tests of injection in PyTorch."""

from __future__ import annotations

from torch import Tensor, nn

from mhc_exp.torch import Residual, Residual2d

WIDTH = 16


class BasicBlock(nn.Module):
    """torchvision's."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """Three stages of three blocks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.layer1 = self.stage(8, 8, 1)
        self.layer2 = self.stage(8, 16, 2)
        self.layer3 = self.stage(16, 24, 2)
        self.head = nn.Linear(24, 10)

    def stage(self, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(inputs, outputs, stride), *(BasicBlock(outputs, outputs) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer3(self.layer2(self.layer1(self.stem(x)))).mean((2, 3)))


def encoder(depth: int = 3, dropout: float = 0.0, norm_first: bool = True) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, depth, nn.LayerNorm(WIDTH), enable_nested_tensor=False)


def sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(4, WIDTH), *(Residual(branch()) for _ in range(4)), nn.Linear(WIDTH, 3))


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), *(Residual2d(nn.Conv2d(6, 6, 3, padding=1)) for _ in range(3)), nn.Flatten()
    )


def branch() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh())


MODELS = {
    "encoder": (encoder, (2, 5, WIDTH), 6),
    "resnet": (ResNet, (2, 3, 12, 12), 7),
    "sequential": (sequential, (7, 4), 4),
    "images": (images, (2, 3, 5, 5), 3),
}
"""Name -> (how to build it, shape of an input, number of connections)."""
