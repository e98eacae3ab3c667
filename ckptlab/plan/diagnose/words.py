"""What people call the same things: wrappers, parts of a transformer, the state of an optimizer.

Tables and the questions asked of them; it knows no checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

WRAPPERS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP1",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_fpw_module": "FSDP1",
    "module": "DDP, or another wrapper that calls what it wraps `module`",
    "_forward_module": "Lightning",
}
"""Names that a wrapper puts between a module and what it wraps."""

CONTAINERS = frozenset(
    [
        *("model", "module", "transformer", "network", "net", "backbone", "base_model", "language_model"),
        *("state_dict", "app", "llm"),
    ]
)
"""Names that stand before all others, and say nothing of what a tensor is."""

_SAME = {
    "embed": "embed_tokens tok_embeddings wte word_embeddings token_embedding token_embeddings embeddings",
    "position": "wpe embed_positions position_embeddings",
    "head": "lm_head output output_layer embed_out",
    "layers": "h blocks block layer",
    "attn": "self_attn attention self_attention mixer",
    "mlp": "feed_forward ffn",
    "q": "q_proj wq query to_q q_lin linear_q",
    "k": "k_proj wk key to_k k_lin linear_k",
    "v": "v_proj wv value to_v v_lin linear_v",
    "o": "o_proj wo out_proj to_out out_lin linear_proj",
    "qkv": "qkv_proj Wqkv c_attn query_key_value linear_qkv in_proj",
    "kv": "kv_proj key_value linear_kv",
    "gate": "gate_proj w1",
    "down": "down_proj w2 fc2 dense_4h_to_h linear_fc2",
    "up": "up_proj w3 fc1 c_fc dense_h_to_4h linear_fc1",
    "gate_up": "gate_up_proj w13 up_gate_proj",
    "norm_1": "input_layernorm attention_norm ln_1 norm1 attn_norm ln1",
    "norm_2": "post_attention_layernorm ffn_norm ln_2 norm2 mlp_norm ln2",
    "norm": "ln_f final_layernorm final_norm norm_f",
}
_CONCEPT = {word: concept for concept, words in _SAME.items() for word in (concept, *words.split())}
_IN_PLACE = {("attn", "c_proj"): "o", ("mlp", "c_proj"): "down", ("attn", "dense"): "o"}

FUSED = {"qkv": ("q", "k", "v"), "kv": ("k", "v"), "gate_up": ("gate", "up")}
"""What is stored as one tensor by some and as several by others, in the order of its rows."""

WOVEN = frozenset(["query_key_value", "linear_qkv"])
"""Fused tensors whose rows go head by head in most codes, so that cutting them in three mixes them up."""

ROTATED = (frozenset(["q_proj", "k_proj"]), frozenset(["wq", "wk"]))
"""Two families of models whose rows of q and k stand in different orders, for their rotary embeddings."""

OPTIMIZERS = {
    "Adam or AdamW": {"exp_avg", "exp_avg_sq"},
    "AMSGrad": {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
    "SGD with momentum, or Muon": {"momentum_buffer"},
    "RMSprop": {"square_avg"},
    "Adagrad": {"sum"},
    "Adadelta": {"square_avg", "acc_delta"},
    "Adamax": {"exp_avg", "exp_inf"},
    "Lion": {"exp_avg"},
    "Rprop": {"prev", "step_size"},
    "Adafactor": {"exp_avg_sq_row", "exp_avg_sq_col"},
}
"""The tensors that an optimizer keeps of a parameter, besides its step."""

STATES = frozenset(["step", "master_weights", "grad_avg", "z"]).union(*OPTIMIZERS.values())
"""What the state of an optimizer is called, below the name of a parameter."""

ANEW = {
    "inv_freq": "a table of rotary embeddings, which the model makes anew",
    "freqs_cis": "a table of rotary embeddings, which the model makes anew",
    "lora_": "an adapter (LoRA), which a base model has not",
    "num_batches_tracked": "a counter of batch normalization",
}
"""Parts of names that tell why a checkpoint has not got them."""

_ROOTS = frozenset(["optim", "optimizer", "optimizers", "state"])
_PAIRED = re.compile(r"(.+)_(weight|bias)")


def optimizer_of(states: frozenset[str]) -> str:
    """Which optimizer keeps this of a parameter.

    >>> optimizer_of(frozenset(["exp_avg", "exp_avg_sq", "step"]))
    'Adam or AdamW'
    """
    kept = states - {"step", "master_weights"}
    found = [name for name, has in OPTIMIZERS.items() if has == kept]
    return found[0] if found else f"one that keeps {', '.join(sorted(kept)) or 'nothing'}"


def concepts(parts: Sequence[str]) -> tuple[str, ...]:
    """What a name means, whatever dialect it is in; numbers stay.

    >>> concepts("model.layers.3.self_attn.q_proj.weight".split("."))
    ('layers', '3', 'attn', 'q', 'weight')
    >>> concepts("layers.3.attention.wq.weight".split("."))
    ('layers', '3', 'attn', 'q', 'weight')
    """
    meant: list[str] = []
    inside = ""
    for part in parts:
        if part in CONTAINERS and not any(word not in _ROOTS for word in meant):
            continue
        pair = _PAIRED.fullmatch(part)
        for word in pair.groups() if pair else (part,):
            concept = _IN_PLACE.get((inside, word)) or _CONCEPT.get(word, word)
            inside = concept if concept in ("attn", "mlp") else inside
            meant.append(concept)
    return tuple(meant)
