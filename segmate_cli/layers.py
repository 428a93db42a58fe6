"""The building blocks of the SegMate network; the names of their parts are those of checkpoints.

Written from the description in arXiv 2602.23903 and a list of tensor names and shapes. What
`forward` takes and gives is said by each class.
"""

# ruff: noqa: D102
# mypy: disallow-subclassing-any=False

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn


def resize(x: Tensor, size: torch.Size) -> Tensor:
    """Resize (N, C, h, w) to `size` (H, W), bilinear with the corners aligned."""
    # While a graph is recorded the sizes stand for any others, so the resize must be in it.
    recording = torch.jit.is_tracing() or torch.compiler.is_compiling()
    if not recording and x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def conv_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class SliceFusion(nn.Module):
    """Neighbouring slices (N, S, H, W) to one channel (N, 1, H, W)."""

    def __init__(self, slices: int) -> None:
        super().__init__()
        first = nn.Conv2d(slices, 16, 3, padding=1, bias=False)
        self.net = nn.Sequential(first, nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 1, 1))

    def forward(self, slices: Tensor) -> Tensor:
        return cast(Tensor, self.net(slices))


class Align(nn.Module):
    """1x1 convolution of an encoder feature to the decoder's width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.align_conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.align_conv(x)))


class ASPP(nn.Module):
    """Four parallel convolutions (1x1; 3x3 dilated by 6, 12, 18), joined by a 1x1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.atrous_block1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        for rate in (6, 12, 18):
            block = nn.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate, bias=False)
            self.add_module(f"atrous_block{rate}", block)
            self.add_module(f"bn{rate}", nn.BatchNorm2d(outputs))
        self.conv_1x1_output = nn.Conv2d(4 * outputs, outputs, 1, bias=False)
        self.bn_output = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        branches = []
        for rate in (1, 6, 12, 18):
            conv, norm = getattr(self, f"atrous_block{rate}"), getattr(self, f"bn{rate}")
            branches.append(F.relu(norm(conv(x))))
        return F.relu(self.bn_output(self.conv_1x1_output(torch.cat(branches, dim=1))))


class PositionEncoder(nn.Module):
    """Slice position (N,) to the scale and shift of FiLM, (N, channels) each."""

    def __init__(self, channels: int, hidden: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        first, second = nn.Linear(1, hidden), nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), second, nn.ReLU())
        self.gamma_head = nn.Linear(hidden, channels)
        self.beta_head = nn.Linear(hidden, channels)

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.mlp(position.unsqueeze(1))
        return self.gamma_head(hidden), self.beta_head(hidden)


class FiLM(nn.Module):
    """y = gamma * x + beta per channel; the identity where the position is negative (unknown)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.position_encoder = PositionEncoder(channels)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        gamma, beta = self.position_encoder(position.clamp(0.0, 1.0))
        known = (position >= 0).unsqueeze(1)
        gamma = torch.where(known, gamma, torch.ones_like(gamma))
        beta = torch.where(known, beta, torch.zeros_like(beta))
        return gamma[:, :, None, None] * x + beta[:, :, None, None]


class ChannelAttention(nn.Module):
    """A gate per channel from its mean and its maximum, through shared 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True))))
        peak = self.fc2(F.relu(self.fc1(x.amax(dim=(2, 3), keepdim=True))))
        return torch.sigmoid(mean + peak)


class SpatialAttention(nn.Module):
    """A gate per pixel from the mean and the maximum over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return torch.sigmoid(self.conv1(both))


class CBAM(nn.Module):
    """Channel attention, then spatial attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ca = ChannelAttention(channels)
        self.sa = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.ca(x)
        return x * cast(Tensor, self.sa(x))


class SqueezeExcite(nn.Module):
    """A gate per channel from its mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeeze = nn.Linear(channels, channels // 16, bias=False)
        excite = nn.Linear(channels // 16, channels, bias=False)
        self.fc = nn.Sequential(squeeze, nn.ReLU(inplace=True), excite, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * cast(Tensor, self.fc(x.mean(dim=(2, 3))))[:, :, None, None]


class DecoderBlock(nn.Module):
    """Two 3x3 convolutions, attention, and a residual around both."""

    def __init__(self, inputs: int, outputs: int, attention: nn.Module) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(inputs, outputs)
        self.dropout = nn.Dropout2d(0.1)
        self.conv2 = conv_bn_relu(outputs, outputs)
        self.attention = attention
        self.residual: nn.Module = nn.Identity()
        if inputs != outputs:
            widen = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.residual = nn.Sequential(widen, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.conv2(self.dropout(self.conv1(x))))
        return F.relu(y + self.residual(x))


class SameConv(nn.Module):
    """TensorFlow's "same" convolution, padded by arithmetic that every exporter can follow.

    Takes over the weights of `conv`, whose kernel must be no smaller than its stride: then the
    padding needs no maximum, and the recorded graph holds for any height and width. Where sizes are
    always `whole` multiples of the stride, the padding is the same for all of them: a number in the
    graph, not arithmetic on its sizes, of which a torch.export file takes minutes to load.
    """

    def __init__(self, conv: nn.Conv2d, *, whole: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        self.conv.load_state_dict(conv.state_dict())
        spans = zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
        self.surplus = [(kernel - 1) * dilation + 1 - step for kernel, dilation, step in spans]
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.surplus
        if not self.whole:
            rows += (-x.shape[2]) % self.conv.stride[0]
            columns += (-x.shape[3]) % self.conv.stride[1]
        sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return cast(Tensor, self.conv(F.pad(x, sides)))


class OrderedFusion(nn.Module):
    """A slice fusion whose first convolution sums in PyTorch's order in every engine.

    Published networks see inputs within [-1, -0.992], of which the first convolution keeps only
    the contrast; there the order of summation, or batch norm folded into the weights, changes the
    logits by more than a thousandth of their deviation. As a matrix product over (row, column,
    slice), with batch norm as separate arithmetic, no engine reorders or folds it.
    """

    def __init__(self, fusion: SliceFusion) -> None:
        super().__init__()
        conv, norm, activation, last = fusion.net
        weight = conv.weight.detach().permute(0, 2, 3, 1).flatten(1).contiguous()
        scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
        shift = norm.bias.detach() - norm.running_mean * scale
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale[:, None, None].clone(), requires_grad=False)
        self.shift = nn.Parameter(shift[:, None, None].clone(), requires_grad=False)
        self.rest = nn.Sequential(activation, last)

    def forward(self, slices: Tensor) -> Tensor:
        batch, _, rows, columns = slices.shape
        padded = F.pad(slices, (1, 1, 1, 1))
        steps = [(row, column) for row in range(3) for column in range(3)]
        taps = [padded[:, :, r : r + rows, c : c + columns] for r, c in steps]
        sums = torch.matmul(self.weight, torch.cat(taps, dim=1).flatten(2))
        sums = sums.reshape(batch, -1, rows, columns)
        return cast(Tensor, self.rest(sums * self.scale + self.shift))
