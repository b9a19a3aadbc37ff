"""What ν does to image embeddings.

Each kind of noise turns clean embeddings (1, patches, hidden) into damaged ones, given
ν and *unit noise*: numbers that are drawn once per (seed, example, draw) and are the
same for every ν, every cell and every device. ν = 0 leaves the embeddings as they are.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import numpy as np

from nnblip.errors import SettingError, one_of, told

if TYPE_CHECKING:  # what only names noises, such as the command, does without torch
    from jaxtyping import Float
    from torch import Tensor


@runtime_checkable
class Noise(Protocol):
    """A kind of noise: any object with a `name`, `unit` and `apply` will do, such as

        class Dropout:
            name = "dropout"

            def unit(self, shape, rng):
                return rng.random(shape, dtype=np.float32)

            def apply(self, embeds, unit, nu):
                return embeds * (unit >= nu)

    What it gives is checked: `unit` an array of the shape that is asked for, `apply` a tensor of
    the shape of the embeddings with finite numbers. ν = 0 should leave them as they are.

    Attributes:
        name: what results and messages call it; with its other attributes, if it has no `__repr__` of its own.
    """

    name: ClassVar[str]

    def unit(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Unit noise of this shape, float32. All its chance comes from `rng`."""
        ...

    def apply(
        self, embeds: Float[Tensor, "1 patch hidden"], unit: Float[Tensor, "1 patch hidden"], nu: float
    ) -> Float[Tensor, "1 patch hidden"]:
        """The damaged embeddings, in the dtype in which they come: float32, of a model in float64 float64."""
        ...


class _Gaussian:
    def unit(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)


@dataclass(frozen=True)
class Multiplicative(_Gaussian):
    """`embeds * N(mean 1, std ν)`, elementwise: the released code of Palit et al. 2023 (there ν = 5)."""

    name: ClassVar[str] = "multiplicative"

    def apply(self, embeds: Tensor, unit: Tensor, nu: float) -> Tensor:
        return embeds * (1 + nu * unit)


@dataclass(frozen=True)
class Additive(_Gaussian):
    """`embeds + ν · std(embeds) · N(0, 1)`: the text of causal-tracing papers (Meng et al. 2022).

    The standard deviation is taken over all elements of this image's embeddings.
    """

    name: ClassVar[str] = "additive"

    def apply(self, embeds: Tensor, unit: Tensor, nu: float) -> Tensor:
        return embeds + nu * embeds.std() * unit


@dataclass(frozen=True)
class Uniform:
    """`embeds + ν · std(embeds) · U(-√3, √3)`: as `additive`, same variance, bounded."""

    name: ClassVar[str] = "uniform"

    def unit(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return ((2 * rng.random(shape, dtype=np.float32) - 1) * math.sqrt(3)).astype(np.float32)

    def apply(self, embeds: Tensor, unit: Tensor, nu: float) -> Tensor:
        return embeds + nu * embeds.std() * unit


class _Unvaried:
    """No randomness: all draws are alike."""

    def unit(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.zeros(shape, np.float32)


@dataclass(frozen=True)
class Scale(_Unvaried):
    """`embeds · factor^ν`: no randomness. ν = 1 is the paper's second notebook (factor 0.7691)."""

    factor: float = 0.7691
    name: ClassVar[str] = "scale"

    def __post_init__(self) -> None:
        try:
            fits = math.isfinite(self.factor) and self.factor > 0
        except (TypeError, OverflowError):
            fits = False
        if not fits or self.factor == 1:
            raise SettingError(
                f"scale factor {told(self.factor)}: expected a number above 0 and not 1, which does nothing"
            )

    def apply(self, embeds: Tensor, unit: Tensor, nu: float) -> Tensor:
        return embeds * self.factor**nu


@dataclass(frozen=True)
class Mean(_Unvaried):
    """Every embedding moves by ν towards the mean over the image's embeddings; at ν = 1 all are the mean."""

    name: ClassVar[str] = "mean"

    def apply(self, embeds: Tensor, unit: Tensor, nu: float) -> Tensor:
        return embeds + nu * (embeds.mean(1, keepdim=True) - embeds)


@dataclass(frozen=True)
class Shuffle(_Gaussian):
    """Every embedding moves by ν towards that of another place, drawn at random; at ν = 1 patches are shuffled.

    [CLS] stays where it is. The unit noise is only used to draw the order of the places. Whole shuffles act on pixels
    only: of embeddings BLIP does not see the order, and a trace with ν = 1 is refused.
    """

    name: ClassVar[str] = "shuffle"

    def apply(self, embeds: Tensor, unit: Tensor, nu: float) -> Tensor:
        import torch

        order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + unit[0, 1:, 0].cpu().argsort()])
        return embeds + nu * (embeds[:, order.to(embeds.device)] - embeds)


@dataclass(frozen=True)
class Swap(_Unvaried):
    """Every embedding moves by ν towards that of the partner image; at ν = 1 the model sees the partner.

    In place of unit noise, `apply` gets the partner's embeddings (`Example.partner`).
    """

    name: ClassVar[str] = "swap"

    def apply(self, embeds: Tensor, unit: Tensor, nu: float) -> Tensor:
        return embeds + nu * (unit - embeds)


#: The strongest noise. Far below it the model sees nothing but noise, and not far above it numbers leave their range:
#: LayerNorm squares, and float32 ends at 3e38.
MOST_NU = 1e6

#: How noise may be named.
NoiseLike = str | Noise

NOISES: dict[str, type] = {kind.name: kind for kind in (Multiplicative, Additive, Uniform, Scale, Mean, Shuffle, Swap)}


def get_noise(noise: NoiseLike) -> Noise:
    """A noise by its name, or the object itself.

    Raises:
        NnblipError: for an unknown name (the nearest is suggested) or an object that is no noise.
    """
    if isinstance(noise, str):
        kind: Noise = NOISES[one_of(noise, NOISES, "noise")]()
        return kind
    if isinstance(noise, list | tuple):
        raise SettingError(f"noise {told(noise)}: expected one here; several at once are for causal_trace(noise=[...])")
    if isinstance(noise, type) or not isinstance(noise, Noise):
        raise SettingError(
            f"noise {noise!r:.100}: expected one of {', '.join(NOISES)}, or an object like nnblip.noise.Scale()"
        )
    if not isinstance(noise.name, str) or not noise.name.strip():
        raise SettingError(f"noise {type(noise).__name__}: its name is {noise.name!r:.60}, expected a text")
    return noise


def described(noise: Noise) -> str:
    """What a result says of its noise: its `repr`, or where it has none of its own its name and its attributes."""
    if type(noise).__repr__ is not object.__repr__:
        return repr(noise)
    return f"{noise.name}({', '.join(f'{name}={value!r:.60}' for name, value in sorted(vars(noise).items()))})"


def check_nu(nu: object) -> float:
    """ν as a float.

    Raises:
        NnblipError: if it is not a finite number from 0 to `MOST_NU`.
    """
    try:
        value = math.nan if isinstance(nu, bool | np.bool_ | str | bytes) else float(nu)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise SettingError(f"nu {told(nu)}: expected a number of at least 0 (the paper uses 5)")
    if value > MOST_NU:
        raise SettingError(f"nu {value:g}: expected at most {MOST_NU:g} (the paper uses 5)")
    return value


def unit_noise(
    noise: Noise, shape: tuple[int, ...], seed: int, example: str, draw: int
) -> Float[Tensor, "1 patch hidden"]:
    """The unit noise of one draw, on the CPU in float32, whatever the model's device and dtype.

    Args:
        noise: the kind.
        shape: (1, patches, hidden).
        seed: the run's seed.
        example: the example's content hash (`nnblip.blip.inputs.Encoded.key`), so that the order
            of a data set does not matter.
        draw: the number of the draw, from 0.
    """
    import torch

    digest = hashlib.blake2b(f"{seed}/{example}/{draw}".encode(), digest_size=16).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    unit = noise.unit(shape, rng)
    if not isinstance(unit, np.ndarray) or unit.shape != shape:
        given = f"shape {unit.shape}" if isinstance(unit, np.ndarray) else f"a {type(unit).__name__}"
        raise SettingError(f"noise {noise.name!r}: unit gave {given}, expected an array of shape {shape}")
    return torch.from_numpy(unit)


def corrupt(
    noise: Noise, embeds: Float[Tensor, "1 patch hidden"], unit: Tensor, nu: float
) -> Float[Tensor, "1 patch hidden"]:
    """The damaged embeddings in the dtype and on the device of `embeds`, computed in float32, or float64 if they are.

    Raises:
        SettingError: if the noise gives something else than as many finite numbers.
    """
    import torch

    wide = embeds if embeds.dtype == torch.float64 else embeds.float()
    try:
        damaged: object = noise.apply(wide, unit.to(wide), nu)
    except OverflowError as error:  # a power, say
        raise SettingError(f"noise {noise.name!r}: at ν = {nu:g} its numbers are too large ({error})") from error
    if not isinstance(damaged, torch.Tensor) or damaged.shape != embeds.shape:
        given = f"shape {tuple(damaged.shape)}" if isinstance(damaged, torch.Tensor) else f"a {type(damaged).__name__}"
        expected = f"expected a tensor of shape {tuple(embeds.shape)}"
        raise SettingError(f"noise {noise.name!r}: apply gave {given}, {expected}")
    damaged = damaged.to(embeds.dtype)
    if not damaged.isfinite().all():
        dtype = str(embeds.dtype).removeprefix("torch.")
        raise SettingError(f"noise {noise.name!r}: at ν = {nu:g} it gives numbers that are NaN or infinite in {dtype}")
    return damaged
