"""Findings from names, shapes and dtypes: each cause told, no false alarm, and never wrong where sure."""

import pytest
from cases_doctor import REAL, side
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.errors import LayoutError
from ckptlab.metadata import Tensor
from ckptlab.plan.bind import bind
from ckptlab.plan.diagnose import Side, diagnose
from ckptlab.plan.transform import Part

LAYER = {
    "attention.wq": (8, 8),
    "attention.wk": (4, 8),
    "attention.wv": (4, 8),
    "attention.wo": (8, 8),
    "feed_forward.w1": (20, 8),
    "feed_forward.w2": (8, 20),
    "feed_forward.w3": (20, 8),
}
HF = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}


def llama(layers=2):
    inner = {f"layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in LAYER.items()}
    return {"tok_embeddings.weight": (50, 8)} | inner | {"norm.weight": (8,), "output.weight": (50, 8)}


def hugging(layers=2):
    found = {}
    for name, shape in llama(layers).items():
        other = next((name.replace(*pair) for pair in HF.items() if pair[0] in name), name)
        found[f"model.{other}"] = shape
    found["model.embed_tokens.weight"] = found.pop("model.tok_embeddings.weight")
    found["lm_head.weight"] = found.pop("model.output.weight")
    return found


def adam(shapes, root="optim.state.", kept=("exp_avg", "exp_avg_sq")):
    state = {f"{root}{name}.{what}": shape for name, shape in shapes.items() for what in kept}
    return state | {f"{root}{name}.step": () for name in shapes}


def kinds(found):
    return sorted(it.kind for it in found if it.kind != "nothing")


def one(found, kind):
    (it,) = [it for it in found if it.kind == kind]
    return it


def sources(transform, stored, wanted):
    """The stored key behind each of the target's that the transform fills; nothing else is said of it."""
    told = {**stored.tensors, **dict.fromkeys(stored.objects)}
    bound = bind(transform, told, {**wanted.tensors, **dict.fromkeys(wanted.objects)})
    return {fqn: fills[0].stored.fqn for fqn, fills in bound.fills.items()}


NAMES = st.lists(
    st.tuples(
        st.sampled_from(["encoder", "layers", "head"]),
        st.integers(0, 3).map(str),
        st.sampled_from(["attn", "mlp", "norm"]),
        st.sampled_from(["weight", "bias", "scale"]),
    ).map(".".join),
    min_size=1,
    max_size=14,
    unique=True,
)
SHAPES = st.sampled_from([(), (1,), (4,), (4, 4), (8, 4), (2, 3, 4)])
DTYPES = st.sampled_from(["float32", "bfloat16", "int64"])


@st.composite
def sides(draw):
    return {name: Tensor(name, draw(DTYPES), draw(SHAPES)) for name in draw(NAMES)}


@given(sides(), st.data())
def test_what_fits_has_no_finding(tensors, data):
    """All of a checkpoint, and any whole branches of it."""
    assert not diagnose(Side(tensors), Side(tensors))
    branches = sorted({name.partition(".")[0] for name in tensors})
    chosen = data.draw(st.lists(st.sampled_from(branches), min_size=1, unique=True))
    part = {name: it for name, it in tensors.items() if name.partition(".")[0] in chosen}
    found = diagnose(Side(tensors, {"step": ""}), Side(part))
    assert not found, found


def _wrap(name):
    first, *rest = name.split(".")
    return ".".join([first, "_orig_mod", *rest])


CHANGES = {
    "wrapped": _wrap,
    "module": lambda name: f"module.{name}",
    "prefixed": lambda name: f"agent.{name}",
    "twice": lambda name: f"model.model.{name}",
    "slashes": lambda name: name.replace(".", "/"),
    "inserted": lambda name: name.replace(".attn.", ".attn.base_layer."),
}


@given(sides(), st.sampled_from(sorted(CHANGES)), st.booleans())
def test_what_is_sure_is_right(tensors, change, target):
    """Whatever the shapes, a remedy that is taken unasked never leads a key to another's elements."""
    other = {CHANGES[change](name): it for name, it in tensors.items()}
    truth = dict(zip(tensors, other, strict=True))
    changed = {name: Tensor(name, it.dtype, it.shape) for name, it in other.items()}
    stored, wanted = (Side(tensors), Side(changed)) if target else (Side(changed), Side(tensors))
    found = diagnose(stored, wanted)
    right = {v: k for k, v in truth.items()} if target else truth
    for key, source in sources(found.transform, stored, wanted).items():
        assert source == right[key], found
    if change in ("wrapped", "module", "slashes"):
        assert set(sources(found.transform, stored, wanted)) == set(wanted.tensors), found


@pytest.mark.parametrize("name", REAL)
def test_a_report_at_its_real_size(name):
    case = REAL[name]
    found = diagnose(side(case.stored), side(case.wanted, rank=case.rank))
    assert kinds(found) == [case.kind]
    assert case.says in repr(found)


def test_the_shard_of_a_rank_is_its_range_of_elements():
    case = REAL["RLinf#655"]
    found = one(diagnose(side(case.stored), side(case.wanted, rank=3)), "flat")
    ((part,),) = found.remedy.parts.values()
    assert part.stored == ((3 * 131661824, 4 * 131661824),)
    assert not found.applied
    assert "for rank 3" in found.cost


def test_the_last_flat_shard_is_filled_up():
    found = diagnose(side({"w": (5, 2)}), side({"w": (3,)}, rank=3))
    ((part,),) = one(found, "flat").remedy.parts.values()
    assert (part.stored, part.into) == (((9, 10),), ((0, 1),))


def test_a_flat_shard_in_the_checkpoint_has_no_remedy():
    found = one(diagnose(side({"w": (25,)}), side({"w": (10, 10)})), "flat")
    assert found.remedy is None
    assert "one of 4 ranks" in found.cause


def test_another_code_is_told_word_by_word_and_rotated_rows_are_not_taken():
    stored, wanted = side(hugging() | adam(hugging())), side(llama() | adam(llama()))
    found = diagnose(stored, wanted)
    filled = sources(found.transform, stored, wanted)
    assert filled["layers.1.feed_forward.w2.weight"] == "model.layers.1.mlp.down_proj.weight"
    assert filled["optim.state.output.weight.exp_avg"] == "optim.state.lm_head.weight.exp_avg"
    left = {name for name in wanted.tensors if name not in filled}
    assert left == {name for name in wanted.tensors if "wq" in name or "wk" in name}
    (offered,) = [it for it in found if it.cost]
    assert set(offered.keys) == left
    assert "another order" in offered.why
    whole = sources(found.transform_with(offered), stored, wanted)
    assert set(whole) == set(wanted.tensors)
    assert whole["layers.0.attention.wq.weight"] == "model.layers.0.self_attn.q_proj.weight"


def test_two_sources_that_fit_are_a_question():
    shapes = llama()
    stored = side({f"{who}.{name}": shape for who in ("ema", "net") for name, shape in shapes.items()})
    found = one(diagnose(stored, side(shapes)), "prefix")
    assert found.sure == 0.5
    assert not found.applied
    assert "explains them as well" in found.why


def test_a_word_that_was_exchanged_is_not_sure_by_layers():
    stored = side({f"layers.{i}.k.weight": (4, 4) for i in range(40)})
    found = diagnose(stored, side({f"layers.{i}.x.weight": (4, 4) for i in range(40)}))
    assert one(found, "name").sure == 0.5
    assert not found.transform.rename


def test_woven_rows_are_offered_and_others_taken():
    split = {f"h.attn.{w}.weight": (4, 4) for w in ("q_proj", "k_proj", "v_proj")}
    for name, sure in (("qkv_proj", True), ("query_key_value", False)):
        whole = {f"h.attn.{name}.weight": (12, 4)}
        assert one(diagnose(side(split), side(whole)), "fused").applied is sure
        assert one(diagnose(side(whole), side(split)), "split").applied is sure


@pytest.mark.parametrize("into", [True, False])
def test_experts_are_stacked(into):
    single = {f"l.{i}.experts.{e}.up.weight": (4, 2) for i in range(2) for e in range(3)}
    pile = {f"l.{i}.experts.up": (3, 4, 2) for i in range(2)}
    found = diagnose(*((side(single), side(pile)) if into else (side(pile), side(single))))
    parts = one(found, "stacked" if into else "unstacked").remedy.parts
    if into:
        assert parts["l.1.experts.up"][2] == Part("l.1.experts.2.up.weight", into=((2, 3), (0, 4), (0, 2)))
    else:
        assert parts["l.1.experts.2.up.weight"] == (Part("l.1.experts.up", stored=((2, 3), (0, 4), (0, 2))),)


def test_squares_beside_transposed_matrices_are_offered():
    found = diagnose(
        side({"a.weight": (4, 8), "b.weight": (4, 4)}), side({"a.weight": (8, 4), "b.weight": (4, 4)})
    )
    assert kinds(found) == ["square", "transposed"]
    assert one(found, "square").sure == 0.5
    assert not diagnose(side({"b.weight": (4, 4)}), side({"b.weight": (4, 4)}))


def test_nothing_is_surer_than_the_names_that_brought_it_together():
    stored = side({"a.x.weight": (4, 8), "a.y.weight": (2, 8)})
    found = diagnose(stored, side({"x.weight": (8, 4), "y.weight": (8, 2)}))
    assert one(found, "transposed").sure <= one(found, "prefix").sure < 0.9
    assert not found.transform.parts


def test_a_sharded_tensor_in_an_object_is_told():
    stored = Side({}, {"w": "torch.distributed._shard.sharded_tensor.api.ShardedTensor"})
    found = one(diagnose(stored, side({"w": (4,)})), "object")
    assert "ShardedTensor" in found.cause
    assert "on as many ranks" in found.advice


def test_tied_by_name_alone_is_offered():
    found = diagnose(
        side({"model.embed_tokens.weight": (9, 4)}),
        side({"model.embed_tokens.weight": (9, 4), "lm_head.weight": (9, 4)}),
    )
    assert one(found, "tied").remedy.parts == {"lm_head.weight": (Part("model.embed_tokens.weight"),)}
    assert not one(found, "tied").applied


def test_another_optimizer_begins_afresh():
    shapes = llama()
    stored = side(shapes | adam(shapes, kept=("momentum_buffer",)))
    found = one(diagnose(stored, side(shapes | adam(shapes))), "optimizer")
    assert "SGD" in found.cause
    assert "Adam or AdamW" in found.cause
    assert found.remedy.leave == ("optim.*",)
    assert "begins afresh" in found.cost


def test_state_that_only_one_side_has():
    shapes = {"a.w": (4,), "b.w": (5,)}
    empty = Side({n: Tensor(n, "float32", s) for n, s in shapes.items()}, {"optim.param_groups.0.lr": ""})
    stored = Side(
        {n: Tensor(n, "float32", s) for n, s in (shapes | adam(shapes)).items()},
        {"optim.param_groups.0.lr": "", "optim.param_groups.0.initial_lr": ""},
    )
    found = diagnose(stored, empty)
    assert kinds(found) == ["initial_lr", "lazy"]
    assert "no state yet" in one(found, "lazy").cause
    back = one(diagnose(Side(stored.tensors, empty.objects), stored), "initial_lr")
    assert back.remedy.leave == ("optim.param_groups.0.initial_lr",)


def test_a_parameter_that_is_missing_misses_no_state():
    shapes = llama(1)
    whole = shapes | adam(shapes)
    less = {name: shape for name, shape in whole.items() if "feed_forward.w3" not in name}
    found = diagnose(side(less), side(whole))
    assert kinds(found) == ["missing"], found
    assert len(found[0].keys) == 4


def test_numbers_of_parameters_of_which_some_are_gone_are_not_sure():
    shapes = {"a.w": (4,), "b.w": (5,), "c.w": (6,)}
    stored = side(adam({"0": (4,), "1": (6,)}))
    found = one(diagnose(stored, side(adam(shapes))), "index")
    assert found.sure == 0.5
    assert found.remedy.parts["optim.state.c.w.exp_avg"] == (Part("optim.state.1.exp_avg"),)
    assert "optim.state.b.w.exp_avg" not in found.remedy.parts


def test_float8_with_its_scale_is_not_converted():
    stored = Side(
        {"w": Tensor("w", "float8_e4m3fn", (4, 4)), "w_scale_inv": Tensor("w_scale_inv", "float32", (1, 1))}
    )
    found = one(diagnose(stored, Side({"w": Tensor("w", "bfloat16", (4, 4))})), "scaled")
    assert found.remedy is None
    assert "off by the scale" in found.advice


def test_integers_for_fractions_are_asked_about():
    found = diagnose(side({"w": (3,)}), side({"w": (3,)}, "int32"))
    assert one(found, "number").cost == "fractions are cut off"


def test_one_object_against_its_entries():
    stored = Side({}, {"groups": ""})
    found = one(diagnose(stored, Side({}, {"groups.0.lr": "", "groups.1.lr": ""})), "list")
    assert found.keys == ("groups.0.lr", "groups.1.lr")
    assert found.remedy.leave == ("groups.*",)


def test_fewer_layers_and_tables_that_are_made_anew():
    more = llama(3) | {"layers.0.rotary.inv_freq": (4,)}
    assert kinds(diagnose(side(llama(2)), side(more))) == ["anew", "layers"]
    back = one(diagnose(side(llama(3)), side(llama(2))), "layers")
    assert back.side == "checkpoint"
    assert back.remedy.drop == ("layers.2.*",)


def test_findings_are_ordered_by_weight_and_told_with_all_that_is_known():
    stored = side({"a.w": (4,), "b.w": (4, 100)})
    wanted = Side({"a.w": Tensor("a.w", "float64", (4,)), "b.w": Tensor("b.w", "float16", (4, 100))})
    found = diagnose(stored, wanted)
    assert [it.kind for it in found] == ["narrowed", "widened"]
    assert [it.applied for it in found] == [False, True]
    text = repr(found)
    for said in (
        "2 findings; 0 of 2 keys",
        "1 key of the target: b.w",
        "100%",
        "offered",
        "cost    each element",
    ):
        assert said in text
    records = found.records()
    assert records[0]["keys"] == ["b.w"]
    assert found.transform.dtype == "widen"
    assert found.transform_with(found[0]).dtype == found.transform_with([0]).dtype == "narrow"
    with pytest.raises(LayoutError, match="no finding 2: there are 2 findings, from 0 on"):
        found.transform_with([0, 2])
