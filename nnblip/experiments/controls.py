"""Controls of causal tracing: what any weights would show, and what any states would bring back.

- A model of the same size with fresh random weights has learned nothing: what its maps show is how BLIP is built.
- States of another question, of another word, or drawn at random, are put where the clean ones would be: what they
  bring back needs no state of this example.

Both need the weights here: on a server there are other models' weights, and no states come back.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from nnblip.errors import SettingError, one_of
from nnblip.examples import Example

if TYPE_CHECKING:
    from nnblip.model import BlipVQA
    from nnblip.passes.measure import Ready
    from nnblip.passes.settings import Settings
    from nnblip.passes.states import States

#: The standard deviations of random weights that are tried, the smallest first. Those of a fresh BLIP (0.02) answer
#: nothing in particular, so that nothing can be taken away.
SCALES = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)
#: The total effect on P(answer) that they must have at least.
LEAST = 0.1
#: How many random models are tried for one example.
TRIES = 5
#: What stands in the place of clean states, and of what.
DONORS = {
    "example": "states of another question",
    "token": "states of another word",
    "random": "random states of the same mean and spread",
}


def require_here(model: BlipVQA, name: str) -> None:
    """Raise `SettingError` for a model on a server, which has no weights here."""
    if model.remote:
        raise SettingError(
            f"{name} with --remote: its controls need weights and states here; run it where the model fits"
        )


# --- random weights -------------------------------------------------------------------------


def scrambled(
    model: BlipVQA, example: Example, weights: int, least: float = LEAST, **settings: Any
) -> tuple[BlipVQA, dict[str, float]] | None:  # fmt: skip
    """A model of the same size with random weights, of which the noise takes an answer away; None if there is none.

    Its weights are normal numbers of the smallest standard deviation of `SCALES` at which the total effect is large
    enough; of LayerNorm they are 1 and the biases 0, as in a fresh BLIP. Its own answer is one token, the likeliest
    besides [SEP]: such a model might never end.

    Args:
        model: which one, and whose processor.
        example: image and question.
        weights: their seed, together with the example.
        least: the total effect on P(answer) that there must be.
        **settings: of `causal_trace`, such as `nu`, `draws`, `noise`.

    Returns:
        The model, and what was chosen: `scale`, the standard deviation; `tried`, how many models.
    """
    import torch

    from nnblip.effects import total_effect
    from nnblip.sites import Site
    from nnblip.tracing.trace import causal_trace

    asked = replace(example, answer=None)
    for number in range(TRIES):
        other, before = _fresh(model, _seed(f"{weights}/{number}", example)), SCALES[0]
        for scale in SCALES:
            with torch.no_grad():
                for weight in other._module.parameters():
                    if weight.ndim > 1:
                        weight.mul_(scale / before)
            before = scale
            found = causal_trace(other, [asked], cells=[Site("answer_decoder")], progress=False, **settings)
            if float(total_effect(found)["corrupted"].probability.mean()) >= least:
                return other, {"scale": scale, "tried": number + 1}
    return None


def _fresh(model: BlipVQA, seed: int) -> BlipVQA:
    """The same architecture, its weights drawn with the first of `SCALES`."""
    import torch

    from nnblip.model import BlipVQA

    class Unended(BlipVQA):
        def own_answer(self, encoded: Any, image_embeds: Any, empty: bool = False) -> list[int]:
            """The likeliest first token besides [SEP]."""
            logits = self.following(encoded, [])
            logits[self.config.text_config.sep_token_id] = -torch.inf
            return [int(logits.argmax())]

    config = copy.deepcopy(model._module.config)
    for part in (config, config.text_config, config.vision_config):  # of vision it is 1e-10 by default
        part.initializer_range = SCALES[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = type(model._module)(config)
    return Unended(module.to(model._module.dtype).to(model._module.device), processor=model.processor)


# --- other states ---------------------------------------------------------------------------


def _donor(kind: str, model: BlipVQA, settings: Settings, other: Example | None) -> Callable[[Ready], States]:
    from nnblip.passes.measure import Asked, Ready

    def given(ready: Ready) -> States:
        rng = np.random.default_rng([settings.seed, int(ready.encoded.key[:15], 16)])
        if kind == "example":
            assert other is not None
            return Ready.of(model, Asked.of(model, other, settings), settings).clean
        if kind == "token":
            return _changed(ready.clean, lambda state: state.roll(1 + int(rng.integers(state.shape[1] - 1)), 1))
        return _changed(ready.clean, lambda state: _like(state, rng))

    return given


def _changed(clean: States, change: Callable[[Any], Any]) -> States:
    from nnblip.passes.states import States

    found = States(clean)
    found.image_embeds = clean.image_embeds
    for key, state in clean.items():
        if key[:2] == ("question_encoder", "block"):
            found[key] = change(state)
    return found


def _like(state: Any, rng: np.random.Generator) -> Any:
    """Normal numbers of each token's own mean and standard deviation."""
    import torch

    drawn = torch.from_numpy(rng.standard_normal(tuple(state.shape), dtype=np.float32)).to(state)
    return state.mean(-1, keepdim=True) + state.std(-1, keepdim=True) * drawn


def partner_of(example: Example, others: list[Example], tokens: Mapping[str, int]) -> Example | None:
    """The next of the others, in turn, with as many tokens, about another image and with another answer; or None."""
    start = next(number for number, one in enumerate(others) if one.id == example.id)
    for one in [*others[start + 1 :], *others[:start]]:
        if tokens[str(one.id)] == tokens[str(example.id)] and one.answer != example.answer:
            return one
    return None


def trace_with(
    model: BlipVQA, example: Example, kind: str, other: Example | None = None, **settings: Any
) -> xr.DataTree:
    """`causal_trace` of one example with other states in the place of the clean ones that are restored.

    Args:
        model: the model.
        example: the example.
        kind: which states, of `DONORS`; those of the question encoder's blocks are replaced.
        other: for "example", one with as many tokens.
        **settings: of `causal_trace`; of kinds and components the question encoder's blocks alone.
    """
    from nnblip.passes.measure import Asked, measure
    from nnblip.passes.settings import Settings
    from nnblip.tracing.labels import labelled, result_of

    one_of(kind, DONORS, "donor")
    asked_for = Settings.of(**settings, components=("question_encoder",))
    asked = Asked.of(model, example, asked_for)
    found = measure(model, asked_for, asked, donor=_donor(kind, model, asked_for, other))
    return result_of(model, asked_for, [labelled(model, example, asked_for, asked.encoded, found)])


def _seed(text: str, example: Example) -> int:
    digest = hashlib.blake2b(f"{text}/{example.id}/{example.question}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "little")
