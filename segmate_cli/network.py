"""The SegMate network in PyTorch, laid out so that published checkpoints load unchanged.

Written from the description in arXiv 2602.23903 and a list of tensor names and shapes: a 2.5D
fusion of neighbouring slices, a timm encoder, ASPP, optional FiLM on the slice position, an
attention decoder with dense skips, and 1x1 heads. Import this module lazily: it needs torch (timm
only when a network is built).
"""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

import copy
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from segmate_cli.errors import ModelError
from segmate_cli.layers import (
    ASPP,
    CBAM,
    Align,
    DecoderBlock,
    FiLM,
    OrderedFusion,
    SameConv,
    SliceFusion,
    SqueezeExcite,
    resize,
)

ALIGNED_CHANNELS = (40, 64, 128, 176)
ASPP_CHANNELS = 256
UP_CHANNELS = (160, 88, 48, 24)
DECODER_CHANNELS = (160, 88, 48, 32)
STRIDES = (4, 8, 16, 32)

#: Encoders that `recognise_encoder` tries, the likeliest first; any other is told by name.
KNOWN_ENCODERS = (
    *("tf_efficientnetv2_m", "mambaout_tiny", "fastvit_t12", "tf_efficientnetv2_b0"),
    *("fastvit_t8", "mambaout_femto", "tf_efficientnet_lite0", "tf_efficientnetv2_s"),
    *("tf_efficientnetv2_b1", "tf_efficientnetv2_b2", "tf_efficientnetv2_b3"),
    *("fastvit_s12", "fastvit_sa12", "mambaout_kobe", "mambaout_small"),
    *("tf_efficientnet_lite1", "tf_efficientnet_lite2", "tf_efficientnet_b0"),
    *("mobilenetv3_large_100", "convnext_tiny", "resnet18", "resnet34"),
)

#: Blocks that published checkpoints hold and the published forward pass never uses.
UNUSED_BLOCKS = ("model.skip_dec2_4.", "model.skip_dec1_3.", "model.skip_dec1_4.")

_ENCODER_PREFIX = "model.encoder."
_TRAINING_HEADS = ("model.boundary_head", "model.presence_head", "model.deep_head")
_WRAPPERS = ("model_state", "state_dict", "model_state_dict")
_UNREADABLE = (
    *(RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError),
    *(KeyError, TypeError, AttributeError, IndexError),
)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What distinguishes one SegMate network from another.

    Attributes:
        encoder: name of a timm model that offers features at strides 4, 8, 16 and 32.
        organs: number of output channels (independent sigmoids, no background).
        slices: neighbouring slices that go in, odd; the published network takes 3.
        film: whether the slice position modulates the ASPP output.
        deep_supervision: whether there are three more segmentation heads, for training only.
        boundary: whether there is a head for organ boundaries, for training only.
        presence: whether there is a head for "this organ is in the slice".
    """

    encoder: str
    organs: int
    slices: int = 3
    film: bool = False
    deep_supervision: bool = False
    boundary: bool = True
    presence: bool = True


class SegMateOutput(NamedTuple):
    """Everything a network gives for N slices of H x W; None where it has no such head.

    Attributes:
        logits: (N, organs, H, W).
        boundary: boundary logits, (N, organs, H, W).
        presence_logits: (N, organs); the published head ends in a sigmoid, see `presence`.
        deep: segmentation logits on strides 32, 16 and 8, not resized.
    """

    logits: Tensor
    boundary: Tensor | None
    presence_logits: Tensor | None
    deep: tuple[Tensor, ...]

    @property
    def presence(self) -> Tensor | None:
        """Probability that each organ is in the slice, (N, organs)."""
        return None if self.presence_logits is None else self.presence_logits.sigmoid()


class SliceNetwork(nn.Module):
    """One fused slice (N, 1, H, W) to decoder features and heads: everything but the fusion."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.encoder, channels = build_encoder(config.encoder)
        self.channels_last = str(getattr(self.encoder, "output_fmt", "")).endswith("NHWC")
        for level, inputs, outputs in zip((2, 3, 4, 5), channels, ALIGNED_CHANNELS, strict=True):
            self.add_module(f"align_e{level}", Align(inputs, outputs))
        self.aspp = ASPP(channels[-1], ASPP_CHANNELS)
        self.film = FiLM(ASPP_CHANNELS) if config.film else None
        below = (ASPP_CHANNELS, *DECODER_CHANNELS[:3])
        for level, wide, up, beside, out in zip(
            (4, 3, 2, 1), below, UP_CHANNELS, ALIGNED_CHANNELS[::-1], DECODER_CHANNELS, strict=True
        ):
            self.add_module(f"up{level}", nn.ConvTranspose2d(wide, up, 2, stride=2))
            self.add_module(f"dec{level}", DecoderBlock(up + beside, out, CBAM(out)))
        for name, up, out in zip(
            ("skip_dec3_4", "skip_dec2_3", "skip_dec1_2"),
            UP_CHANNELS[1:],
            DECODER_CHANNELS[1:],
            strict=True,
        ):
            self.add_module(name, DecoderBlock(up + out, out, SqueezeExcite(out)))
        self._add_heads(config)

    def _add_heads(self, config: NetworkConfig) -> None:
        width, organs = DECODER_CHANNELS[-1], config.organs
        self.segmentation_head = nn.Conv2d(width, organs, 1)
        self.boundary_head = nn.Conv2d(width, organs, 1) if config.boundary else None
        self.presence_head = None
        if config.presence:
            pool, flat, drop = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1)
            self.presence_head = nn.Sequential(pool, flat, drop, nn.Linear(width, organs))
        self.deep_heads = config.deep_supervision
        if config.deep_supervision:
            for number, channels in enumerate(DECODER_CHANNELS[:3], start=1):
                self.add_module(f"deep_head{number}", nn.Conv2d(channels, organs, 1))

    def drop_training_heads(self) -> None:
        """Keep the segmentation head only."""
        self.boundary_head = self.presence_head = None
        for number in (1, 2, 3) if self.deep_heads else ():
            delattr(self, f"deep_head{number}")
        self.deep_heads = False

    def _up(self, level: int, x: Tensor, beside: Tensor) -> Tensor:
        """Twice the size, fitted to the feature beside it, and joined with it."""
        x = resize(getattr(self, f"up{level}")(x), beside.shape[-2:])
        return torch.cat([x, beside], dim=1)

    def decode(self, x: Tensor, position: Tensor | None) -> tuple[Tensor, ...]:
        """The last 32 channels (stride 4), then the decoder's outputs at strides 32, 16 and 8."""
        features = self.encoder(x)
        if self.channels_last:
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        deep = self.aspp(features[-1])
        if self.film is not None and position is not None:
            deep = self.film(deep, position)
        outputs = []
        for level, feature in zip((4, 3, 2, 1), reversed(features), strict=True):
            aligned = getattr(self, f"align_e{level + 1}")(feature)
            deep = getattr(self, f"dec{level}")(self._up(level, deep, aligned))
            outputs.append(deep)
        dec4, dec3, dec2, dec1 = outputs
        dense = self.get_submodule("skip_dec3_4")(self._up(3, dec4, dec3))
        dense = self.get_submodule("skip_dec2_3")(self._up(2, dense, dec2))
        dense = self.get_submodule("skip_dec1_2")(self._up(1, dense, dec1))
        return dense, dec4, dec3, dec2


class SegMate(nn.Module):
    """The published 2.5D network: slices (N, S, H, W) to logits (N, organs, H, W)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.fusion = SliceFusion(config.slices)
        self.model = SliceNetwork(config)

    def segmentation(self, slices: Tensor, slice_position: Tensor | None = None) -> Tensor:
        """Segmentation logits alone, (N, organs, H, W)."""
        features = self.model.decode(self.fusion(slices), slice_position)[0]
        return resize(self.model.segmentation_head(features), slices.shape[-2:])

    def forward(self, slices: Tensor, slice_position: Tensor | None = None) -> SegMateOutput:
        """Every head's output.

        Args:
            slices: (N, S, H, W) float32, windowed and scaled as the weights expect.
            slice_position: (N,), 0 at the first slice with an organ and 1 at the last; a negative
                value or None leaves FiLM out. Ignored by networks without FiLM.
        """
        net, size = self.model, slices.shape[-2:]
        features, *levels = net.decode(self.fusion(slices), slice_position)
        boundary = presence = None
        if net.boundary_head is not None:
            boundary = resize(net.boundary_head(features), size)
        if net.presence_head is not None:
            presence = net.presence_head(features)
        deep: tuple[Tensor, ...] = ()
        if net.deep_heads:
            heads = (net.get_submodule(f"deep_head{number}") for number in (1, 2, 3))
            deep = tuple(head(level) for head, level in zip(heads, levels, strict=True))
        logits = resize(net.segmentation_head(features), size)
        return SegMateOutput(logits, boundary, presence, deep)


class InferenceNetwork(nn.Module):
    """What is exported: logits only, without whatever serves only training.

    The network is copied; re-parameterisable blocks are merged, and padding that depends on the
    size is made exportable. The same numbers come out, to float32 rounding.

    Args:
        network: what to export.
        mean: subtracted from the slices before anything else, and
        deviation: what they are then divided by; for checkpoints whose own input range is too
            narrow for a caller's float32 arithmetic (see `segmate_cli.convert`).
        multiple: of what rows and columns always are multiples.
    """

    def __init__(
        self, network: SegMate, mean: float = 0.0, deviation: float = 1.0, multiple: int = 1
    ) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation
        from timm.utils.model import reparameterize_model

        network = copy.deepcopy(network).eval()
        network.model.drop_training_heads()
        self.network = reparameterize_model(network)
        _make_padding_exportable(self.network, whole=multiple % STRIDES[-1] == 0)
        self.has_input_range = (mean, deviation) != (0.0, 1.0)
        if self.has_input_range:
            self.network.fusion = OrderedFusion(self.network.fusion)
        self.eval()

    def forward(self, slices: Tensor, slice_position: Tensor | None = None) -> Tensor:
        """Logits (N, organs, H, W); a `slice_position` (N,) below 0 means unknown."""
        if self.has_input_range:
            slices = (slices - self.mean) / self.deviation
        return cast(Tensor, self.network.segmentation(slices, slice_position))


def _make_padding_exportable(network: nn.Module, *, whole: bool) -> None:
    from timm.layers import Conv2dSame

    for name, module in list(network.named_modules()):
        if isinstance(module, Conv2dSame) and module.kernel_size >= module.stride:
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, SameConv(module, whole=whole))


def build_encoder(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A randomly initialised timm encoder for one input channel, and its four channel counts.

    Raises:
        ModelError: timm has no such model, or it gives no features at strides 4, 8, 16, 32.
    """
    import timm

    for indices in ((0, 1, 2, 3), (1, 2, 3, 4)):
        options: dict[str, Any] = {"features_only": True, "in_chans": 1, "out_indices": indices}
        try:
            encoder = timm.create_model(name, pretrained=False, **options)
        except (RuntimeError, ValueError, IndexError, AssertionError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            message = f"timm cannot build '{name}' as an encoder ({reason}); name another model."
            raise ModelError(message) from error
        if tuple(encoder.feature_info.reduction()) == STRIDES:
            return encoder, tuple(encoder.feature_info.channels())
    raise ModelError(f"'{name}' gives no features at strides 4, 8, 16 and 32: not an encoder here.")


def build_network(config: NetworkConfig) -> SegMate:
    """A randomly initialised network, in training mode.

    Raises:
        ModelError: the configuration makes no sense or the encoder cannot be built.
    """
    if config.organs < 1 or config.slices < 1 or config.slices % 2 == 0:
        sizes = f"{config.organs} organs and {config.slices} slices"
        raise ModelError(f"A network of {sizes} cannot be: organs from 1, slices odd.")
    return SegMate(config)


def load_state(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a checkpoint: plain names, float32, on the CPU.

    Nothing in the file is executed (`weights_only=True`).

    Raises:
        ModelError: not a checkpoint, cut short, holding code, or holding NaN or infinite values.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickles; what cannot be read is said below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"Cannot read the checkpoint {path}: {error.strerror}.") from error
    except _UNREADABLE as error:
        raise ModelError(
            f"{path} is no PyTorch checkpoint of plain tensors: it is damaged, cut short, or holds "
            "code, which is never run; save it again as a state dict."
        ) from error
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ModelError(f"{path} holds no state dict; save {{'model_state': model.state_dict()}}.")
    state = {str(k).removeprefix("module."): v for k, v in loaded.items() if isinstance(v, Tensor)}
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    broken = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        message = f"{path} has NaN or infinite values in {_some(broken)}; it cannot be used."
        raise ModelError(message)
    return state


def config_from_state(state: Mapping[str, Tensor], encoder: str | None = None) -> NetworkConfig:
    """Read off the tensors what network they belong to.

    Args:
        state: tensors as `load_state` gives them.
        encoder: timm name; without it the encoder is recognised among `KNOWN_ENCODERS`.

    Raises:
        ModelError: no SegMate layout, or an encoder that is unknown or does not fit.
    """
    needed = ("fusion.net.0.weight", "model.segmentation_head.weight")
    missing = [key for key in needed if key not in state or state[key].ndim != 4]
    if missing:
        message = f"This is no SegMate checkpoint: it lacks {_some(missing)}."
        raise ModelError(f"{message} Convert a 2.5D SegMate state dict.")
    return NetworkConfig(
        encoder=encoder or recognise_encoder(state),
        organs=int(state["model.segmentation_head.weight"].shape[0]),
        slices=int(state["fusion.net.0.weight"].shape[1]),
        film=any(key.startswith("model.film.") for key in state),
        deep_supervision="model.deep_head1.weight" in state,
        boundary="model.boundary_head.weight" in state,
        presence="model.presence_head.3.weight" in state,
    )


def recognise_encoder(state: Mapping[str, Tensor]) -> str:
    """The known encoder whose tensor names and shapes are exactly those of the checkpoint.

    Raises:
        ModelError: none of `KNOWN_ENCODERS` fits.
    """
    found = {
        key.removeprefix(_ENCODER_PREFIX): tuple(value.shape)
        for key, value in state.items()
        if key.startswith(_ENCODER_PREFIX)
    }
    for name in KNOWN_ENCODERS:
        with torch.device("meta"):
            encoder, _ = build_encoder(name)
        if {key: tuple(value.shape) for key, value in encoder.state_dict().items()} == found:
            return name
    raise ModelError(
        f"The encoder of this checkpoint ({len(found)} tensors) is none of the "
        f"{len(KNOWN_ENCODERS)} that segmate recognises; name its timm model with --encoder."
    )


def network_from_checkpoint(
    path: Path | str, encoder: str | None = None
) -> tuple[SegMate, NetworkConfig]:
    """The network of a checkpoint, in evaluation mode, without the blocks nothing uses.

    Raises:
        ModelError: the file cannot be read, or its tensors are not those of the network.
    """
    state = load_state(path)
    config = config_from_state(state, encoder)
    network = build_network(config)
    fill_network(network, state, f"{path} as a SegMate with encoder '{config.encoder}'")
    return network.eval(), config


def fill_network(network: SegMate, state: Mapping[str, Tensor], what: str) -> None:
    """Load `state` into `network`, all of it or nothing; `what` names it in the error.

    Raises:
        ModelError: tensors are missing, unexpected, or of another shape.
    """
    wanted = network.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(UNUSED_BLOCKS)}
    # A counter that inference never reads; some training loops do not save it.
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    misshapen = [k for k in given if k in wanted and given[k].shape != wanted[k].shape]
    lists = {
        "missing": sorted(wanted.keys() - given.keys() - counters),
        "unexpected": sorted(given.keys() - wanted.keys()),
        "of another shape": misshapen,
    }
    faults = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in lists.items() if keys]
    if faults:
        message = f"Cannot load {what}: of {len(wanted)} tensors, {'; '.join(faults)}."
        raise ModelError(f"{message} Check --encoder, or that the file is complete.")
    network.load_state_dict(given, strict=False)


def training_heads(network: SegMate) -> dict[str, Tensor]:
    """The tensors of the heads that `InferenceNetwork` leaves out."""
    state = network.state_dict()
    return {key: value for key, value in state.items() if key.startswith(_TRAINING_HEADS)}


def _some(keys: list[str], limit: int = 3) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
