"""How many cells and bases one pass takes: as many as its time and the memory allow.

Measured on CPUs: linear layers of 1,000 rows of tokens and more run at the full rate, and buffers above 32 MB are
mapped anew by the C library each time, so that a GELU then takes five times as long. A pass is fastest where its
largest buffer, the neurons of an MLP, just stays below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from weakref import WeakKeyDictionary

import torch

from nnblip.blip.network import Blip
from nnblip.errors import InputError, SettingError
from nnblip.passes.plan import Plan, make_plans
from nnblip.passes.settings import Settings
from nnblip.passes.sharing import STEADY_ROWS
from nnblip.paths import Connection
from nnblip.sites import BEFORE_VISION, COMPONENTS, TEXT_COMPONENTS, Cell, Extent

#: The most bytes of one buffer on a CPU, and of a pass there above the weights.
MOST_BUFFER, MOST_ON_CPU = 32 * 2**20, 2**30
#: Of what is free on a GPU, a pass takes this share.
SHARE_OF_GPU = 0.5
#: A row of the image encoder counts as so many of the question encoder.
IMAGE_ROW = 16


@dataclass(frozen=True)
class Room:
    """What a pass may take.

    Attributes:
        row_tokens: rows of tokens: rows times bases times the tokens of the longer of question and answer.
        nbytes: memory above the weights.
    """

    row_tokens: int
    nbytes: int

    @classmethod
    def of(cls, model: Blip) -> Room:
        """By the model's sizes and what its device has free: chosen once, so that a model's passes stay alike."""
        if model._module not in _ROOMS:
            device, item = model._module.device, model._module.dtype.itemsize
            if device.type == "cuda":
                free = int(SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0])
                room = cls(free, free)
            else:
                room = cls(MOST_BUFFER // (item * model.config.text_config.intermediate_size), MOST_ON_CPU)
            _ROOMS[model._module] = room
        return _ROOMS[model._module]

    def __str__(self) -> str:
        return f"chosen: {self.row_tokens} rows of tokens, {self.nbytes / 2**30:.3g} GiB"


_ROOMS: WeakKeyDictionary[torch.nn.Module, Room] = WeakKeyDictionary()


def least_rows(extent: Extent) -> dict[str, int]:
    """How many rows a component must see, so that a row's numbers do not depend on how many others there are.

    Measured with MKL in float32 (AVX2 and AVX-512): a product's row is the same bit for bit
    from 16 rows on, and differs by 1e-6 below.
    """
    return {component: -(-STEADY_ROWS // extent.tokens(component)) for component in TEXT_COMPONENTS}


def fit(model: Blip, settings: Settings, extent: Extent, cells: Sequence[Cell | Connection]) -> tuple[list[Plan], int]:
    """Plans of all cells, and how many bases a pass of each takes.

    Where all cells of one base are one pass, as many bases share it as there is room for; else the cells of one base
    are cut. So rows times bases are at most `max_rows`, of which a row that passes through the image encoder counts
    `IMAGE_ROW` times. Where the number is chosen, a row that is born in the answer decoder takes the room of the
    answer's tokens only.

    Raises:
        SettingError: if `max_rows` rows would take more memory than is there.
        InputError: if not even one base with one cell fits.
    """
    sees = extent.noise_at in BEFORE_VISION
    # image embeddings, their keys and values of two runs, and what makes them
    per_base = 8 * model._module.dtype.itemsize * extent.tokens("image_encoder") * model.config.text_config.hidden_size
    per_row = _bytes_of_row(model, extent, "question_encoder")
    if settings.max_rows is None:
        room = Room.of(model)
        most = {
            component: min(
                room.row_tokens // _row_tokens(extent, component),
                (room.nbytes - per_base) // _bytes_of_row(model, extent, component),
            )
            for component in TEXT_COMPONENTS
        }
        if most["question_encoder"] < 2:
            raise InputError(
                f"a pass of one cell takes {(per_base + 2 * per_row) / 2**30:.1f} GiB beside the weights, and"
                f" {room.nbytes / 2**30:.1f} may be taken: expected a shorter question and answer, or a given max_rows"
            )
    else:
        most = dict.fromkeys(TEXT_COMPONENTS, settings.max_rows)
    filling = {component: Fraction(rows) for component, rows in most.items()}
    filling["image_encoder"] = filling["question_encoder"] / (IMAGE_ROW if sees else 1)
    plans = make_plans(cells, extent.layers, filling, least_rows(extent))
    base = "image_encoder" if sees else "question_encoder"
    largest = max(sum(_filled(plan, filling), 1 / filling[base]) for plan in plans)
    rows = math.ceil(largest * most["question_encoder"])  # of the question encoder, or so many take no less
    if settings.max_rows is not None and (needed := rows * per_row + per_base) > (free := _free(model)):
        raise SettingError(
            f"max_rows {settings.max_rows}: a pass of {rows} rows takes about {needed / 2**30:.1f} GiB,"
            f" {free / 2**30:.1f} are free: expected at most {max(2, (free - per_base) // per_row)}, or None to choose"
        )
    if len(plans) > 1:
        return plans, 1
    bases = math.floor(1 / largest)
    if settings.max_rows is None:
        bases = min(bases, room.nbytes // (rows * per_row + per_base))
    return plans, max(1, bases)


def _row_tokens(extent: Extent, born_in: str) -> int:
    """The most tokens of a row in one component that it passes through."""
    return max(extent.tokens(one) for one in TEXT_COMPONENTS[TEXT_COMPONENTS.index(born_in) :])


def _bytes_of_row(model: Blip, extent: Extent, born_in: str) -> int:
    """Measured: of a layer the neurons twice and some ten states are alive at once; of the head logits, two copies."""
    text = model.config.text_config
    states = model._module.dtype.itemsize * (2 * text.intermediate_size + 10 * text.hidden_size)
    return _row_tokens(extent, born_in) * states + 4 * extent.answer_tokens * 3 * text.vocab_size


def _filled(plan: Plan, filling: Mapping[str, Fraction]) -> Iterator[Fraction]:
    """The parts of a pass that the rows born in each component take."""
    return (plan.born_in(component) / filling[component] for component in COMPONENTS)


def _free(model: Blip) -> int:
    """Bytes that the model's device has free."""
    device = model._module.device
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil  # accelerate brings it

    return int(psutil.virtual_memory().available)
