"""The truth for knock-out cells and edges: plain PyTorch, one cut or one edge at a time.

Like `oracle.py`, whose few readers and runners it uses, this file shares no code with the package, does not
use nnsight and runs one row. It was written from the definitions, without sight of the engine.

    donor = record(module, embeds, input_ids, answer)       # say, the clean run
    base = record(module, noisy, input_ids, answer)         # say, the corrupted one
    found = edge(module, input_ids, answer, strongest, base, donor, sender, receiver, "value")
    found = cut(module, embeds, input_ids, answer, strongest, "image_to_question", [3], [1, 2], [5], "mean")

Sites are any objects with component, kind, layer, token and head, as in `oracle.py`.
"""

from typing import NamedTuple

import oracle
import torch

# Edges that are cut -> component and sublayer of the reader.
READERS = {
    "image_to_question": ("question_encoder", "crossattention"),
    "question_to_question": ("question_encoder", "attention"),
    "question_to_answer": ("answer_decoder", "crossattention"),
    "answer_to_answer": ("answer_decoder", "attention"),
}
SUBLAYERS = ("attention", "crossattention", "mlp")
# What the stream is before a sublayer adds to it.
BEFORE = {"attention": "block_input", "crossattention": "attention", "mlp": "crossattention"}


# --- Cut edges ------------------------------------------------------------------------


def cut(module, embeds, input_ids, answer, rival, edges, layers, source, target, by):
    """The outcome of the run without the edges from `source` to `target` tokens, in these layers.

    By "mask" they are no longer read, and the weights of the others sum to one; a token that has
    nothing left reads zeros. By "mean" the weights stay, and the mean of the value vectors of all
    tokens that the reader can see is read in place of each of theirs.
    """
    component, sublayer = READERS[edges]
    hooks = [
        (getattr(oracle.COMPONENTS[component](module)[layer], sublayer).self, (component, sublayer)) for layer in layers
    ]
    handles = [
        attention.register_forward_hook(_without(*reader, set(source), set(target), by), with_kwargs=True)
        for attention, reader in hooks
    ]
    try:
        logits = oracle.run(module, embeds, input_ids, answer)
    finally:
        for handle in handles:
            handle.remove()
    return oracle.outcome(logits, answer, rival)


def _without(component, sublayer, source, target, by):
    assert by in ("mask", "mean")

    def hook(attention, args, kwargs, output):
        hidden = args[0][0]
        read = hidden if sublayer == "attention" else kwargs["encoder_hidden_states"][0]
        context = output[0].clone()
        for token in target:
            for head in range(attention.num_attention_heads):
                part = _slice(attention, head)
                query = attention.query(hidden[token])[part]
                keys, values = attention.key(read)[:, part], attention.value(read)[:, part]
                seen = _seen(component, sublayer, token, len(read))
                if by == "mask":
                    seen = [k for k in seen if k not in source]
                    context[0, token, part] = _attend(query, keys[seen], values[seen]) if seen else 0.0
                else:
                    mean = values[seen].mean(0)
                    rows = torch.stack([mean if k in source else values[k] for k in seen])
                    context[0, token, part] = _attend(query, keys[seen], rows)
        return (context, *output[1:])

    return hook


def _seen(component, sublayer, token, length):
    """The tokens that a token can read."""
    causal = component == "answer_decoder" and sublayer == "attention"
    return list(range(token + 1 if causal else length))


def _slice(attention, head):
    size = attention.attention_head_size
    return slice(head * size, (head + 1) * size)


def _attend(query, keys, values):
    """One token's context in one head: (size,) from (size,), (tokens, size), (tokens, size)."""
    return (keys @ query / len(query) ** 0.5).softmax(0) @ values


# --- Edges ----------------------------------------------------------------------------


class Run(NamedTuple):
    """A run: image embeddings, every state (see `oracle.states`) and logits."""

    embeds: torch.Tensor
    states: dict
    logits: torch.Tensor


def record(module, embeds, input_ids, answer):
    states = oracle.states(module, embeds, input_ids, answer)
    return Run(embeds, states, oracle.run(module, embeds, input_ids, answer))


@torch.no_grad()
def edge(module, input_ids, answer, rival, base, donor, sender, receiver, input):
    """The outcome of the base run in which `receiver`'s `input` ("query", "key", "value" or "mlp") alone comes from
    the stream that has the donor run's contribution of `sender`.

    `sender` is a contribution (a sublayer's or head's), the block of the question encoder's last layer, or a list of
    image tokens. All else is the base run's up to the receiver, and computed anew after it.
    """
    senders = [sender] if hasattr(sender, "kind") else list(sender)
    read = {one.token: _arrives(module, base, donor, one, receiver, input) for one in senders}
    layer = oracle.COMPONENTS[receiver.component](module)[receiver.layer]
    if receiver.kind == "mlp_out":
        assert input == "mlp" and list(read) == [receiver.token]
        added = layer.output.dense(layer.intermediate(read[receiver.token][None]))[0]
    else:
        added = _attention(module, base, receiver, input, read)

    def hook(dense, args, output):
        changed = output.clone()
        changed[0, receiver.token] = added
        return changed

    logits = oracle.run(module, base.embeds, input_ids, answer, [(_parts(layer, _sublayer(receiver))[0], hook)])
    return oracle.outcome(logits, answer, rival)


def _sublayer(site):
    return site.kind.rsplit("_", 1)[0]


def _parts(layer, sublayer):
    """What makes a sublayer's contribution at last, and the LayerNorm after it."""
    part = layer.output if sublayer == "mlp" else getattr(layer, sublayer).output
    return part.dense, part.LayerNorm


def _arrives(module, base, donor, sender, receiver, input):
    """What the receiver reads at the sender's token, (hidden,)."""
    across = receiver.kind.startswith("crossattention") and input in ("key", "value")
    source = receiver.component
    if across:
        source = {"question_encoder": "image_encoder", "answer_decoder": "question_encoder"}[source]
    assert sender.component == source, f"{source} is read there: {sender}"
    if source == "image_encoder":
        assert sender.layer == len(module.vision_model.encoder.layers) - 1
        return donor.embeds[0, sender.token]
    layers = oracle.COMPONENTS[source](module)
    if sender.kind == "block":
        assert across and sender.layer == len(layers) - 1
        return donor.states[source, "block", sender.layer][0, sender.token]

    places = [(number, sublayer) for number in range(len(layers)) for sublayer in SUBLAYERS]
    first = places.index((sender.layer, _sublayer(sender)))
    end = len(places) if across else places.index((receiver.layer, _sublayer(receiver)))
    assert first < end, "the sender comes after the receiver"
    stream = base.states[source, BEFORE[_sublayer(sender)], sender.layer][0, sender.token]
    for place in range(first, end):
        number, sublayer = places[place]
        added = base.states[source, f"{sublayer}_out", number][0, sender.token]
        if place == first:
            added = _contribution(module, base, donor, sender)
        stream = _parts(layers[number], sublayer)[1]((stream + added)[None])[0]
    return stream


def _contribution(module, base, donor, sender):
    """What the sender's sublayer adds with the sender's part of it from the donor."""
    key = sender.component, sender.kind, sender.layer
    if sender.kind not in oracle.HEAD_KINDS:
        return donor.states[key][0, sender.token]
    context = base.states[key][0, sender.token].clone()
    part = oracle.head_slice(module, sender)
    context[part] = donor.states[key][0, sender.token, part]
    dense, _ = _parts(oracle.COMPONENTS[sender.component](module)[sender.layer], _sublayer(sender))
    return dense(context[None])[0]


def _attention(module, base, receiver, input, read):
    """What the receiver's attention adds at its token, one input of it read from `read` (tokens to vectors)."""
    component, number, sublayer, token = receiver.component, receiver.layer, _sublayer(receiver), receiver.token
    layer = oracle.COMPONENTS[component](module)[number]
    attention = getattr(layer, sublayer).self
    own = base.states[component, BEFORE[sublayer], number][0]
    if sublayer == "attention":
        source = own
    elif component == "question_encoder":
        source = base.embeds[0]
    else:
        source = base.states["question_encoder", "block", len(oracle.COMPONENTS["question_encoder"](module)) - 1][0]
    query, keys, values = attention.query(own[token]), attention.key(source), attention.value(source)
    if input == "query":
        assert list(read) == [token]
        query = attention.query(read[token])
    else:
        linear, rows = {"key": (attention.key, keys), "value": (attention.value, values)}[input]
        for where, vector in read.items():
            rows[where] = linear(vector)
    seen = _seen(component, sublayer, token, len(source))
    assert input == "query" or set(read) <= set(seen), "no later word is read"
    context = base.states[component, f"{sublayer}_head", number][0, token].clone()
    for head in range(attention.num_attention_heads) if getattr(receiver, "head", None) is None else [receiver.head]:
        part = _slice(attention, head)
        context[part] = _attend(query[part], keys[seen][:, part], values[seen][:, part])
    return _parts(layer, sublayer)[0](context[None])[0]
