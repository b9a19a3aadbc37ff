"""Options that several commands share: which model, and what is restored under which noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nnblip.command import named
from nnblip.errors import SiteError, told, visible
from nnblip.passes.settings import AUTO, Settings
from nnblip.sites import TEXT_COMPONENTS

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

Many = Parameter(consume_multiple=True, negative_iterable="")
Whole = Annotated[int, Parameter(converter=lambda _, tokens: _whole(tokens[0].value))]
Draws = Annotated[
    int | str, Parameter(converter=lambda _, tokens: AUTO if tokens[0].value == AUTO else _whole(tokens[0].value))
]
Grid = Annotated[
    int | tuple[int, int] | None, Parameter(converter=lambda _, tokens: _grid(tokens[0].value), n_tokens=1)
]
Flag = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model, and where it runs."""

    model: str | None = None
    "A hub id or folder; by default the small model that ships with nnblip."
    device: str = "auto"
    "auto, cpu, cuda, cuda:1, ...; with several processes, auto gives each its own."
    dtype: str = "float32"
    "float32, bfloat16 or float16."
    remote: Flag = False
    "On the NDIF server that NDIF_HOST names."

    def load(self) -> BlipVQA:
        from nnblip.model import BlipVQA
        from nnblip.sweeps import processes

        device = processes.device(self.device)
        return BlipVQA(self.model, remote=self.remote, device_map=device, dtype=self.dtype)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is restored, under which noise: what `nnblip.causal_trace` takes, by the same names."""

    draws: Draws = Settings.draws
    "How many samples of the noise; auto for as many as reliable maps take (not in a sweep)."
    reliability: float = Settings.reliability
    "With --draws auto, the reliability that is wished for."
    noise: str = Settings.noise.name
    "multiplicative, additive, uniform, scale, mean, shuffle or swap."
    noise_at: str = Settings.noise_at
    "What the noise falls on: image_embeds, patch_embeds, pixels or question."
    kinds: Annotated[tuple[str, ...] | None, Many] = None
    "Which states of a layer; block by default, none beside --cells."
    components: Annotated[tuple[str, ...] | None, Many] = None
    "Which components get a map: question_encoder and answer_decoder by default, image_encoder with --regions."
    regions: Grid = Settings.regions
    "The grid of the map of image_encoder, such as 4 or 4x6."
    cells: Annotated[tuple[str, ...] | None, Many] = None
    "What else: windows:3, all_tokens, token_across_layers, knock_outs:image_to_question,widths=3, edges:mlp_out, ..."
    direction: str = Settings.direction
    "denoising puts states back in a damaged run, noising damages them in a clean one."
    freeze: Annotated[tuple[str, ...], Many] = Settings.freeze
    "Sublayers that stay as they are without restoring: attention, crossattention, mlp_out."
    knock_out: Annotated[tuple[str, ...], Many] = ()
    "Attention edges cut in every run, such as image_to_question:layers=0+1."
    rival: str | None = None
    "The answer against whose first token the logit difference is held."
    max_rows: Whole | None = Settings.max_rows
    "At most so many rows in one pass; by default chosen."

    def settings(self, nu: tuple[float, ...], seed: int) -> Settings:
        """As `nnblip.causal_trace` has them. Raises `NnblipError` for what cannot be used, before a model is loaded."""
        cells = None if self.cells is None else [named.family(text) for text in self.cells]
        settings = Settings.of(
            nu=nu, draws=self.draws, reliability=self.reliability, noise=self.noise, seed=seed, kinds=self.kinds,
            components=self._components(), cells=cells, direction=self.direction, freeze=self.freeze,
            noise_at=self.noise_at, regions=self.regions, knock_out=[named.cut(text) for text in self.knock_out],
            rival=self.rival, max_rows=self.max_rows,
        )  # fmt: skip
        if settings.regions is not None and "image_encoder" not in settings.components:
            raise SiteError("regions: they part the map of image_encoder; name it with --components, too")
        if "image_encoder" in settings.components and settings.kinds and "block" not in settings.kinds:
            raise SiteError(f"kinds {', '.join(settings.kinds)}: image_encoder has the kind block only; name it too")
        if settings.regions is not None and not settings.kinds:
            raise SiteError("regions: --cells alone have no map; name the kinds, too, such as --kinds block")
        return settings

    def _components(self) -> tuple[str, ...]:
        if self.components is not None:
            return self.components
        return (*["image_encoder"] * (self.regions is not None), *TEXT_COMPONENTS)


MODEL, ASKED = Model(), Asked()


def arguments(settings: Settings) -> dict[str, Any]:
    """Settings as `nnblip.causal_trace` takes them."""
    return {name: getattr(settings, name) for name in Settings.__dataclass_fields__}


def say(text: object) -> None:
    """Print a line in which nothing can do more than be read."""
    print(visible(text))


def _whole(text: str) -> int:
    """As cyclopts reads numbers, which takes "1.5" for 2."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{told(text)}, expected a whole number") from None


def _grid(text: str) -> int | tuple[int, int]:
    rows, by, columns = text.partition("x")
    return (_whole(rows), _whole(columns)) if by else _whole(text)
