"""The oracle of edges and knock-out cells, held against identities, NumPy and the model's own code, in float64."""

from __future__ import annotations

import random

import numpy as np
import oracle
import oracle_edges
import pytest
import torch
from helpers.scenes import question_of
from transformers import BlipForQuestionAnswering

import nnblip
from nnblip import demo, sites
from nnblip.sites import Extent, Site

LAYERS, HEADS = 6, 4


class Pair:
    """A scene, clean and damaged, of which the bundled model in float64 says something else then."""

    def __init__(self):
        self.module = BlipForQuestionAnswering.from_pretrained(demo.MODEL, dtype=torch.float64).eval()
        model = nnblip.BlipVQA()
        encoded = model.encode(*question_of(3, "color"))
        self.ids, embeds = encoded.input_ids, oracle.image_embeds(self.module, encoded.pixel_values.double())
        noise = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.answer = [*oracle.greedy_answer(self.module, embeds, self.ids), 29]  # a word more: there are two tokens
        self.clean, self.noisy = (self.record(one) for one in (embeds, embeds * (1 + 5 * noise)))
        self.rival = oracle.rival(self.clean.logits, self.answer)
        layers = len(self.module.vision_model.encoder.layers)
        self.extent = Extent(LAYERS, len(encoded.tokens), len(self.answer), HEADS, layers, 8)

    def record(self, embeds):
        return oracle_edges.record(self.module, embeds, self.ids, self.answer)

    def outcome(self, run):
        return oracle.outcome(run.logits, self.answer, self.rival)

    def edge(self, edge, base=None, donor=None):
        base, donor = base or self.noisy, donor or self.clean
        sender = edge.sender if len(edge.sender) > 1 else edge.sender[0]
        return oracle_edges.edge(
            self.module, self.ids, self.answer, self.rival, base, donor, sender, edge.receiver, edge.input
        )

    def cut(self, *how, embeds=None):
        embeds = self.clean.embeds if embeds is None else embeds
        return oracle_edges.cut(self.module, embeds, self.ids, self.answer, self.rival, *how)


@pytest.fixture(scope="module")
def pair():
    found = Pair()
    assert found.outcome(found.clean).logit_difference - found.outcome(found.noisy).logit_difference > 1
    return found


SUB = ("attention_out", "crossattention_out", "mlp_out")
ALL = (*SUB, "attention_head", "crossattention_head")


def some_edges(extent, count, seed=0):
    """As many of every input and kind of receiver, senders of every kind."""
    rng, found = random.Random(seed), []
    for component in ("question_encoder", "answer_decoder"):
        for receiver in ALL:
            for input in ("mlp",) if receiver == "mlp_out" else ("query", "key", "value"):
                senders = (*ALL, "block") if receiver.startswith("cross") else ALL
                every = sites.edges(receiver, component, senders, input, regions=4)(extent)
                kinds = sorted({edge.sender[0].kind for edge in every})
                for kind in kinds:
                    found += rng.sample([edge for edge in every if edge.sender[0].kind == kind], count)
    return found


def close(found, expected, within=1e-9):
    np.testing.assert_allclose(tuple(found), tuple(expected), rtol=0, atol=within)


# --- edges ----------------------------------------------------------------------------


@pytest.mark.slow
def test_an_edge_from_the_run_itself_changes_nothing(pair):
    for edge in some_edges(pair.extent, 1):
        close(pair.edge(edge, donor=pair.noisy), pair.outcome(pair.noisy))


def frozen(pair, edge):
    """What the receiver reads at the sender's token, by the model's own code: a base run in which every sublayer adds
    what it added before, but the sender."""
    base, donor, sender = pair.noisy, pair.clean, edge.sender[0]
    component, parts = sender.component, {}
    hooks = []
    for number, layer in enumerate(oracle.COMPONENTS[component](pair.module)):
        for kind in SUB:
            value = base.states[component, kind, number].clone()
            if (kind.split("_")[0], number) == (sender.kind.split("_")[0], sender.layer):
                dense = oracle.KINDS[kind](layer)
                if sender.head is None:
                    value[0, sender.token] = donor.states[component, kind, number][0, sender.token]
                else:
                    heads = base.states[component, sender.kind, number].clone()
                    part = oracle.head_slice(pair.module, sender)
                    heads[0, sender.token, part] = donor.states[component, sender.kind, number][0, sender.token, part]
                    value[0, sender.token] = (heads[0, sender.token] @ dense.weight.T) + dense.bias
            hooks.append((oracle.KINDS[kind](layer), lambda module, args, output, value=value: value))
        for kind in ("block_input", "attention", "crossattention", "block"):

            def keep(module, args, output, key=(kind, number)):
                parts[key] = oracle.first(output)[0, sender.token].clone()

            hooks.append((oracle.KINDS[kind](layer), oracle.on_input(kind, keep)))
    oracle.run(pair.module, base.embeds, pair.ids, pair.answer, hooks)
    if sender.component != edge.receiver.component:
        return parts["block", LAYERS - 1]
    before = {"attention": "block_input", "crossattention": "attention", "mlp": "crossattention"}
    return parts[before[edge.receiver.kind.split("_")[0]], edge.receiver.layer]


@torch.no_grad()
def by_hooks(pair, edge):
    """The edge once more: the model's own attention and MLP, with the row of one linear layer exchanged; what
    the receiver then adds at its token is put into a third run."""
    base, receiver, first = pair.noisy, edge.receiver, edge.sender[0]
    layer = oracle.COMPONENTS[receiver.component](pair.module)[receiver.layer]
    if first.component == "image_encoder":
        rows = {site.token: pair.clean.embeds[0, site.token] for site in edge.sender}
    elif first.kind == "block":
        rows = {first.token: pair.clean.states["question_encoder", "block", LAYERS - 1][0, first.token]}
    else:
        rows = {first.token: frozen(pair, edge)}
    name = receiver.kind.split("_")[0]
    reads = layer.intermediate.dense if edge.input == "mlp" else getattr(getattr(layer, name).self, edge.input)
    part = slice(None) if edge.input == "mlp" else oracle.head_slice(pair.module, receiver)

    def exchange(module, args, output):
        output = output.clone()
        for token, row in rows.items():
            output[0, token, part] = (row @ module.weight.T + module.bias)[part]
        return output

    kept = {}

    def keep(module, args, output):
        kept["added"] = output[0, receiver.token].clone()

    def put(module, args, output):
        output = output.clone()
        output[0, receiver.token] = kept["added"]
        return output

    dense = layer.output.dense if edge.input == "mlp" else getattr(layer, name).output.dense
    oracle.run(pair.module, base.embeds, pair.ids, pair.answer, [(reads, exchange), (dense, keep)])
    logits = oracle.run(pair.module, base.embeds, pair.ids, pair.answer, [(dense, put)])
    return oracle.outcome(logits, pair.answer, pair.rival)


@pytest.mark.slow
def test_edges_agree_with_the_models_own_code_and_show_something(pair):
    effects = {}
    for edge in some_edges(pair.extent, 1, seed=1):
        found = pair.edge(edge)
        close(found, by_hooks(pair, edge))
        effects.setdefault((edge.receiver.component, edge.input), []).append(
            abs(found.logit_difference - pair.outcome(pair.noisy).logit_difference)
        )
    assert len(effects) == 8 and min(max(some) for some in effects.values()) > 1e-3, effects


def test_an_mlp_of_the_next_layer_by_numpy(pair):
    """crossattention_out of layer 2 to the MLP of layer 3: two LayerNorms more, and two contributions of the base."""
    token, layers = 5, pair.module.text_encoder.encoder.layer

    def array(run, kind, layer):
        return run.states["question_encoder", kind, layer][0, token].numpy()

    def norm(layer_norm, x):
        weight, bias = (one.detach().numpy() for one in (layer_norm.weight, layer_norm.bias))
        return (x - x.mean()) / np.sqrt(x.var() + layer_norm.eps) * weight + bias

    x = norm(layers[2].crossattention.output.LayerNorm,
             array(pair.noisy, "attention", 2) + array(pair.clean, "crossattention_out", 2))  # fmt: skip
    x = norm(layers[2].output.LayerNorm, x + array(pair.noisy, "mlp_out", 2))
    x = norm(layers[3].attention.output.LayerNorm, x + array(pair.noisy, "attention_out", 3))
    x = norm(layers[3].crossattention.output.LayerNorm, x + array(pair.noisy, "crossattention_out", 3))
    weights = [
        one.detach().numpy() for one in (*layers[3].intermediate.parameters(), *layers[3].output.dense.parameters())
    ]
    inner = weights[0] @ x + weights[1]
    gelu = torch.nn.functional.gelu(torch.from_numpy(inner)).numpy()
    donor = {("question_encoder", "mlp_out", 3): pair.noisy.states["question_encoder", "mlp_out", 3].clone()}
    donor["question_encoder", "mlp_out", 3][0, token] = torch.from_numpy(weights[2] @ gelu + weights[3])
    receiver = Site("question_encoder", "mlp_out", 3, token)
    expected = oracle.restored(pair.module, pair.noisy.embeds, pair.ids, pair.answer, pair.rival, donor, [receiver])
    found = pair.edge(nnblip.Edge(Site("question_encoder", "crossattention_out", 2, token), receiver, "mlp"))
    close(found, expected)
    assert abs(found.logit_difference - pair.outcome(pair.noisy).logit_difference) > 1e-3


@pytest.mark.slow
def test_where_there_is_one_way_only_the_edge_is_the_state(pair):
    """In a question encoder that adds nothing after the sender and a decoder that reads it in one layer, by values."""
    lone = Pair()
    for layer in lone.module.text_encoder.encoder.layer[4:]:
        for part in (layer.attention.output, layer.crossattention.output, layer.output):
            silence(part.dense)
    for number, layer in enumerate(lone.module.text_decoder.bert.encoder.layer):
        if number == 1:
            silence(layer.crossattention.self.key)
        else:
            silence(layer.crossattention.output.dense)
    lone.answer = lone.answer[:1]  # one token reads
    lone.clean, lone.noisy = lone.record(lone.clean.embeds), lone.record(lone.noisy.embeds)
    for token in range(9):
        sender = Site("question_encoder", "mlp_out", 3, token)
        edge = nnblip.Edge(sender, Site("answer_decoder", "crossattention_out", 1, 0), "value")
        found = lone.edge(edge)
        state = oracle.restored(
            lone.module, lone.noisy.embeds, lone.ids, lone.answer, lone.rival, lone.clean.states, [sender]
        )
        close(found, state)
        close(lone.edge(nnblip.Edge(sender, edge.receiver, "key")), lone.outcome(lone.noisy))
    assert abs(found.logit_difference - lone.outcome(lone.noisy).logit_difference) > 1e-4


@torch.no_grad()
def silence(linear):
    linear.weight.zero_()
    linear.bias.zero_()


@pytest.mark.slow
def test_all_heads_of_one_input_are_the_sublayer_and_one_source_is_not_all(pair):
    """Values are read linearly: what single heads add to the stream sums up to what the sublayer adds."""
    token, region = 4, [Site("image_encoder", layer=pair.extent.image_layers - 1, token=k) for k in range(65)]
    receiver = Site("question_encoder", "crossattention_out", 5, token)
    kept = []

    def keep(module, args, output):
        kept.append(output[0, token].clone())

    after = pair.module.text_encoder.encoder.layer[5].crossattention.output.dropout  # sees what hooks have changed
    handle = after.register_forward_hook(keep)
    try:
        oracle.run(pair.module, pair.noisy.embeds, pair.ids, pair.answer)
        pair.edge(nnblip.Edge(region, receiver, "value"))
        for head in range(HEADS):
            pair.edge(nnblip.Edge(region, Site("question_encoder", "crossattention_head", 5, token, head), "value"))
        for site in region:
            pair.edge(nnblip.Edge(site, receiver, "value"))
    finally:
        handle.remove()
    base, whole, heads, patches = kept[0], kept[1], kept[2:6], kept[6:]
    torch.testing.assert_close(sum(one - base for one in heads), whole - base)
    torch.testing.assert_close(sum(one - base for one in patches), whole - base)
    assert (whole - base).norm() > 0.1 > min((one - base).norm() for one in patches)


# --- cuts -----------------------------------------------------------------------------

SIZES = {"image_to_question": (65, 9), "question_to_question": (9, 9), "question_to_answer": (9, 2)}
SIZES["answer_to_answer"] = (2, 2)


@pytest.mark.parametrize("by", ["mask", "mean"])
def test_to_cut_nothing_changes_nothing(pair, by):
    for edges, (sources, targets) in SIZES.items():
        for how in ([], range(sources), range(targets)), (range(6), [], range(targets)), (range(6), range(sources), []):
            close(pair.cut(edges, *how, by), pair.outcome(pair.clean))


@pytest.mark.parametrize("edges", list(SIZES))
def test_cut_by_mask_as_the_other_oracle_cuts(pair, edges):
    sources, targets = SIZES[edges]
    rng = random.Random(2)
    for count in (1, 2, sources // 2, sources):
        source, target = (
            rng.sample(range(sources), min(count, sources)),
            rng.sample(range(targets), rng.randint(1, targets)),
        )
        layers = rng.sample(range(6), 2)
        with oracle.without(
            pair.module, *[oracle.cut(*oracle_edges.READERS[edges], n, source, target) for n in layers]
        ):
            expected = oracle.outcome(
                oracle.run(pair.module, pair.clean.embeds, pair.ids, pair.answer), pair.answer, pair.rival
            )
        close(pair.cut(edges, layers, source, target, "mask"), expected)


@pytest.mark.parametrize("by", ["mask", "mean"])
@pytest.mark.parametrize("edges", list(SIZES))
def test_one_layer_by_numpy(pair, edges, by):
    """The context of one layer in another way: all heads and tokens at once, with matrices."""
    component, sublayer = oracle_edges.READERS[edges]
    number, rng = 3, np.random.default_rng(5)
    sources, targets = SIZES[edges]
    source = rng.permutation(sources)[: max(1, sources // 2)]
    target = rng.permutation(targets)[: max(1, targets // 2 + 1)]
    attention = getattr(oracle.COMPONENTS[component](pair.module)[number], sublayer).self
    state = "block_input" if sublayer == "attention" else "attention"
    own = pair.clean.states[component, state, number][0].numpy()
    read = {
        "image_to_question": pair.clean.embeds[0].numpy(),
        "question_to_answer": pair.clean.states["question_encoder", "block", 5][0].numpy(),
    }.get(edges, own)

    def heads(linear, x):
        return (x @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()).reshape(len(x), HEADS, -1)

    query, key, value = heads(attention.query, own), heads(attention.key, read), heads(attention.value, read)
    scores = np.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
    visible = (
        np.tril(np.ones((targets, sources), bool)) if edges == "answer_to_answer" else np.ones((targets, sources), bool)
    )
    gone = np.zeros((targets, sources), bool)
    gone[np.ix_(target, source)] = True
    kept = visible & ~gone if by == "mask" else visible
    weights = np.exp(scores - scores.max(-1, keepdims=True)) * kept
    weights = weights / np.where(kept.any(-1)[None, :, None], weights.sum(-1, keepdims=True), 1)
    mean = np.einsum("qk,khd->qhd", visible / visible.sum(1, keepdims=True), value)
    rest = weights * ~gone
    context = np.einsum("hqk,khd->qhd", rest, value)
    context += np.einsum("hq,qhd->qhd", (weights - rest).sum(-1), mean)
    context = torch.from_numpy(context.reshape(targets, -1))[None]
    logits = oracle.run(
        pair.module, pair.clean.embeds, pair.ids, pair.answer,
        [(attention, lambda module, args, output: (context, *output[1:]))],
    )  # fmt: skip
    found = pair.cut(edges, [number], source.tolist(), target.tolist(), by)
    close(found, oracle.outcome(logits, pair.answer, pair.rival))
    assert abs(found.log_probability - pair.outcome(pair.clean).log_probability) > 1e-6


def test_the_mean_of_equal_values_is_no_cut(pair):
    same = pair.clean.embeds[:, :1].repeat(1, 65, 1)
    expected = pair.outcome(pair.record(same))
    close(pair.cut("image_to_question", range(6), range(65), range(9), "mean", embeds=same), expected)
    masked = pair.cut("image_to_question", range(6), range(65), range(9), "mask", embeds=same)
    assert abs(masked.logit_difference - expected.logit_difference) > 0.01
