"""The truth that nnblip is tested against: plain PyTorch hooks, one cell at a time.

This file shares no code with the package and does not use nnsight. Each function
takes the torch module itself, a transformers `BlipForQuestionAnswering`, and runs
one row: nothing is batched, padded, masked or cached, so there is little that could
be wrong. Whether the module is in `eval()` mode is the caller's business.

    embeds = image_embeds(module, pixel_values)             # the clean run
    answer = greedy_answer(module, embeds, input_ids)
    logits = run(module, embeds, input_ids, answer)
    strongest = rival(logits, answer)
    clean = outcome(logits, answer, strongest)
    donors = states(module, embeds, input_ids, answer)

    noisy = embeds * noise                                  # the corrupted run
    corrupted = restored(module, noisy, input_ids, answer, strongest, donors, [])
    cell = restored(module, noisy, input_ids, answer, strongest, donors, [site])
"""

import math
from typing import NamedTuple

import torch

# Component -> the stack of text layers it names.
COMPONENTS = {
    "question_encoder": lambda module: module.text_encoder.encoder.layer,
    "answer_decoder": lambda module: module.text_decoder.bert.encoder.layer,
}

# Kind -> the submodule of a layer whose output (or, of the kinds of INPUTS, input) is the
# state. Where that is a tuple, the state is its first element (see `first`).
KINDS = {
    # What the layer reads.
    "block_input": lambda layer: layer,
    # The stream: after the whole layer, or after one sublayer's residual and LayerNorm.
    "block": lambda layer: layer,
    "attention": lambda layer: layer.attention,
    "crossattention": lambda layer: layer.crossattention,
    # What a sublayer adds, before residual and LayerNorm.
    "attention_out": lambda layer: layer.attention.output.dense,
    "crossattention_out": lambda layer: layer.crossattention.output.dense,
    "mlp_out": lambda layer: layer.output.dense,
    # The heads' contexts side by side; one head owns one slice (see `head_slice`).
    "attention_head": lambda layer: layer.attention.self,
    "crossattention_head": lambda layer: layer.crossattention.self,
    # The same contexts whole, and the MLP's neurons: what the dense layers after them read.
    "attention_value_output": lambda layer: layer.attention.output.dense,
    "mlp_activation": lambda layer: layer.output.dense,
}

HEAD_KINDS = ("attention_head", "crossattention_head")
INPUTS = ("block_input", "attention_value_output", "mlp_activation")


class Outcome(NamedTuple):
    """What a run says about the answer, teacher-forced."""

    probability: float
    log_probability: float
    logit_difference: float


# --- Running the model ---------------------------------------------------------------


@torch.no_grad()
def image_embeds(module, pixel_values):
    """The vision model's last hidden state, (1, patches, hidden)."""
    return module.vision_model(pixel_values=pixel_values).last_hidden_state


@torch.no_grad()
def decode(module, image_embeds, input_ids, decoder_ids):
    """Logits (1, n, vocab) at each of the n tokens the answer decoder is given."""
    assert image_embeds.shape[0] == 1 and input_ids.shape[0] == 1, (
        f"one row at a time: image_embeds {tuple(image_embeds.shape)}, input_ids {tuple(input_ids.shape)}"
    )
    question = module.text_encoder(input_ids=input_ids, encoder_hidden_states=image_embeds).last_hidden_state
    return module.text_decoder(
        input_ids=torch.tensor([decoder_ids], device=input_ids.device),
        encoder_hidden_states=question,
        use_cache=False,
    ).logits


def run(module, image_embeds, input_ids, answer_ids, hooks=()):
    """Teacher-forced logits (1, n, vocab) for the n tokens of the answer.

    The decoder reads [DEC] and all answer tokens but the last, so that logits[0, i]
    predict answer_ids[i]. `hooks` are (submodule, hook) pairs, forward hooks that are
    on the model during this run only; those marked by `on_input` are hooks on what the
    submodule is given.
    """
    assert len(answer_ids) > 0, "the answer needs at least one token"
    handles = []
    try:
        for submodule, hook in hooks:
            before = getattr(hook, "before", False)
            register = submodule.register_forward_pre_hook if before else submodule.register_forward_hook
            handles.append(register(hook))
        start = module.config.text_config.bos_token_id  # [DEC]
        return decode(module, image_embeds, input_ids, [start, *answer_ids[:-1]])
    finally:
        for handle in handles:
            handle.remove()


def greedy_answer(module, image_embeds, input_ids, limit=20):
    """The model's own answer: the likeliest token again and again, until [SEP] (which
    is left out) or `limit` tokens. Everything is recomputed for each token."""
    start = module.config.text_config.bos_token_id  # [DEC]
    end = module.config.text_config.sep_token_id  # [SEP]
    answer = []
    while len(answer) < limit:
        logits = decode(module, image_embeds, input_ids, [start, *answer])
        token = int(logits[0, -1].argmax())
        if token == end:
            break
        answer.append(token)
    return answer


def on_input(kind, hook):
    """A hook (submodule, args, output) of a kind whose state is an input: it gets that in place of an output."""
    if kind not in INPUTS:
        return hook

    def before(submodule, args):
        new = hook(submodule, args, args[0])
        return None if new is None else (new, *args[1:])

    before.before = True
    return before


# --- Measuring a run -----------------------------------------------------------------


def rival(logits, answer_ids):
    """The strongest first token other than the answer's. Give it the CLEAN logits."""
    first_token = logits[0, 0].clone()
    first_token[answer_ids[0]] = -torch.inf
    return int(first_token.argmax())


def outcome(logits, answer_ids, rival):
    """The joint probability of the answer's tokens ([SEP] is not one of them) and the
    margin of its first token over the rival, in float64."""
    logits = logits[0].double()
    assert len(logits) == len(answer_ids), f"{len(logits)} != {len(answer_ids)} tokens"
    log_probabilities = logits.log_softmax(-1)
    log_probability = sum(log_probabilities[i, t] for i, t in enumerate(answer_ids))
    difference = logits[0, answer_ids[0]] - logits[0, rival]
    return Outcome(float(log_probability.exp()), float(log_probability), float(difference))


# --- Reading and writing states ------------------------------------------------------


def first(output):
    """The state in a submodule's output: attention modules return a tuple with it."""
    return output[0] if isinstance(output, tuple) else output


def head_slice(module, site):
    """The part of the hidden dimension that a site owns: a head's, or all of it."""
    head = getattr(site, "head", None)
    if site.kind not in HEAD_KINDS:
        assert head is None, f"{site.kind} has no heads: {site}"
        return slice(None)
    heads = module.config.text_config.num_attention_heads
    assert head in range(heads), f"head must be 0..{heads - 1}: {site}"
    width = module.config.text_config.hidden_size // heads
    return slice(head * width, (head + 1) * width)


def states(module, image_embeds, input_ids, answer_ids):
    """Every state of a run: {(component, kind, layer): (1, tokens, hidden)}.

    The head kinds hold the contexts of all heads side by side.
    """
    saved = {}

    def save_as(key):
        def hook(submodule, args, output):
            saved[key] = first(output).clone()

        return hook

    hooks = [
        (submodule(layer), on_input(kind, save_as((component, kind, number))))
        for component, layers in COMPONENTS.items()
        for number, layer in enumerate(layers(module))
        for kind, submodule in KINDS.items()
    ]
    run(module, image_embeds, input_ids, answer_ids, hooks)
    assert len(saved) == len(hooks), "a submodule did not run"
    return saved


def restored(module, noisy_embeds, input_ids, answer_ids, rival, clean_states, sites, frozen=()):
    """The outcome of a corrupted run with the states at `sites` put back to clean.

    A site is any object with the attributes component, kind, layer, token and head
    (None or missing but for the head kinds). All sites are restored in the same pass,
    each when the model reaches it; with none this is the corrupted run itself.

    Nothing here knows which run is clean: it is a run on the given embeds, with states
    taken from a donor run. With the roles swapped it is `noising`.

    The kinds in `frozen` (attention_out, ...) keep, in every layer of the component where
    the first site lies, the value of the same run with nothing restored. Before the first
    site they have it anyway.
    """

    def write(site):
        donor = clean_states[site.component, site.kind, site.layer]
        layer = COMPONENTS[site.component](module)[site.layer]
        token, part = site.token, head_slice(module, site)
        assert token in range(donor.shape[1]), f"{donor.shape[1]} tokens: {site}"

        def hook(submodule, args, output):
            state = first(output).clone()
            assert state.shape == donor.shape, f"{state.shape} != {donor.shape}: {site}"
            state[0, token, part] = donor[0, token, part]
            return (state, *output[1:]) if isinstance(output, tuple) else state

        return KINDS[site.kind](layer), on_input(site.kind, hook)

    def keep(kind, layer, value):
        def hook(submodule, args, output):
            assert output.shape == value.shape
            return value

        return KINDS[kind](layer), hook

    hooks = []
    if frozen:
        alone = states(module, noisy_embeds, input_ids, answer_ids)
        component = "question_encoder" if any(s.component == "question_encoder" for s in sites) else "answer_decoder"
        for number, layer in enumerate(COMPONENTS[component](module)):
            hooks += [keep(kind, layer, alone[component, kind, number]) for kind in frozen]
    hooks += [write(site) for site in sites]  # after the frozen ones, which they overwrite
    logits = run(module, noisy_embeds, input_ids, answer_ids, hooks)
    return outcome(logits, answer_ids, rival)


def noising(module, clean_embeds, input_ids, answer_ids, rival, noisy_states, sites):
    """The reverse: a clean run with the states at `sites` set to their corrupted
    values, from `states(module, noisy_embeds, ...)`."""
    return restored(module, clean_embeds, input_ids, answer_ids, rival, noisy_states, sites)


# --- How far damage leads ---


@torch.no_grad()
def looking(module, image_embeds, input_ids, unseen=()):
    """How evenly the question encoder looks at the image embeddings: the entropy of its cross-attention, one layer,
    head and token at a time, in shares of the logarithm of the number of patches; the mean of all. It does not look at
    the patches `unseen`."""
    keys = [key for key in range(image_embeds.shape[1]) if key not in unseen]
    found = []

    def hook(attention, args, kwargs, output):
        query, key = attention.query(args[0])[0], attention.key(kwargs["encoder_hidden_states"])[0]
        size = attention.attention_head_size
        for head in range(attention.num_attention_heads):
            part = slice(head * size, (head + 1) * size)
            for token in range(len(query)):
                weights = (key[keys, part] @ query[token, part] / size**0.5).double().softmax(0)
                found.append(float(torch.special.entr(weights).sum()))

    layers = module.text_encoder.encoder.layer
    handles = [layer.crossattention.self.register_forward_hook(hook, with_kwargs=True) for layer in layers]
    try:
        module.text_encoder(input_ids=input_ids, encoder_hidden_states=image_embeds)
    finally:
        for handle in handles:
            handle.remove()
    return sum(found) / len(found) / math.log(image_embeds.shape[1])


# --- The image encoder ---------------------------------------------------------------


@torch.no_grad()
def patch_embeds(module, pixel_values):
    """What the vision model's first layer reads, (1, patches, hidden)."""
    return module.vision_model.embeddings(pixel_values)


@torch.no_grad()
def see(module, pixel_values, patch_embeds, donor=None, sites=()):
    """The image embeddings and every layer's output, from these patch embeddings, with the
    outputs at `sites` (layer, token) taken from `donor`, a list by layer."""
    states, handles = [], []

    def start(submodule, args, output):
        return patch_embeds

    def keep(number):
        def hook(submodule, args, output):
            output = output.clone()
            for site in sites:
                if site.layer == number:
                    output[0, site.token] = donor[number][0, site.token]
            states.append(output)
            return output

        return hook

    vision = module.vision_model
    try:
        handles.append(vision.embeddings.register_forward_hook(start))
        for number, layer in enumerate(vision.encoder.layers):
            handles.append(layer.register_forward_hook(keep(number)))
        embeds = vision(pixel_values=pixel_values).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    assert len(states) == len(vision.encoder.layers)
    return embeds, states


def patches_of(pixels, size):
    """A picture (1, 3, height, width) as (1, 1 + patches, 3 * size * size): each patch's numbers, colour by colour and
    row by row, after the mean patch."""
    _, colours, height, width = pixels.shape
    patches = []
    for top in range(0, height, size):
        for left in range(0, width, size):
            patch = []
            for colour in range(colours):
                for y in range(top, top + size):
                    for x in range(left, left + size):
                        patch.append(float(pixels[0, colour, y, x]))
            patches.append(patch)
    mean = [sum(column) / len(patches) for column in zip(*patches, strict=True)]
    return torch.tensor([[mean, *patches]])


def picture_of(patches, size, side):
    """The way back, for a picture of `side` by `side` pixels; the mean is not needed."""
    pixels = torch.empty(1, 3, side, side)
    for number, patch in enumerate(patches[0, 1:]):
        row, column = divmod(number, side // size)
        numbers = iter(patch.tolist())
        for colour in range(3):
            for y in range(size):
                for x in range(size):
                    pixels[0, colour, row * size + y, column * size + x] = next(numbers)
    return pixels


# --- The question's words -------------------------------------------------------------


class saying:
    """`with saying(module, words):` every run of the module has these word embeddings (1, tokens, hidden)."""

    def __init__(self, module, words):
        self.module, self.words, self.handles = module, words, []

    def __enter__(self):
        def hook(submodule, args, output):
            assert output.shape == self.words.shape
            return self.words.clone()  # positions are added in place

        self.handles.append(self.module.text_encoder.embeddings.word_embeddings.register_forward_hook(hook))

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


# --- Cut attention edges --------------------------------------------------------------


def cut(component, sublayer, layer, source, target):
    """Some cut edges, for `without`. The same edges of a sublayer must be given together.

    Its hook computes an attention sublayer's context anew, one head and one token at a time,
    without the edges from `source` to `target` tokens; a token that reads nothing has zeros.
    """

    def hook(attention, args, kwargs, output):
        hidden = args[0][0]
        given = kwargs.get("encoder_hidden_states")
        read = hidden if given is None else given[0]
        size = attention.attention_head_size
        context = torch.zeros_like(hidden)
        query, key, value = attention.query(hidden), attention.key(read), attention.value(read)
        for token in range(len(hidden)):
            seen = [k for k in range(len(read)) if not (token in target and k in source)]
            if given is None and component == "answer_decoder":
                seen = [k for k in seen if k <= token]
            for head in range(attention.num_attention_heads if seen else 0):
                part = slice(head * size, (head + 1) * size)
                weights = (key[seen, part] @ query[token, part] / size**0.5).softmax(0)
                context[token, part] = weights @ value[seen, part]
        return (context[None], *output[1:])

    return lambda module: (getattr(COMPONENTS[component](module)[layer], sublayer).self, hook)


class without:
    """`with without(module, *cuts):` every run of the module is without these edges."""

    def __init__(self, module, *cuts):
        self.module, self.cuts, self.handles = module, cuts, []

    def __enter__(self):
        for one in self.cuts:
            submodule, hook = one(self.module)
            self.handles.append(submodule.register_forward_hook(hook, with_kwargs=True))

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()
