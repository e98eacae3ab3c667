"""Loads through a transform: every kind, on ranks and alone, against torch's own answer, bit for bit."""

import pytest
import torch
import transform_ops as ops

from ckptlab import load, open_checkpoint, save
from ckptlab.engine import verify_loaded
from ckptlab.errors import LayoutError, MismatchError
from ckptlab.layout import Box, Layout
from ckptlab.metadata import Tensor
from ckptlab.plan.bind import behind, bind
from ckptlab.plan.forecast import forecast
from ckptlab.plan.holding import holdings
from ckptlab.plan.transform import Part, Transform

LOADERS = ["load", "ours", "stock"]


def test_any_transform_of_any_tensor_under_any_layout(ranks4, tmp_path):
    out = ranks4.run(ops.random_ones, str(tmp_path), list(range(16)), ["load", "stock"])
    for found in out:
        assert list(found) == ["load", "stock"]
        for _, different, _, judged in found.values():
            assert (different, judged) == ([], ())
    # Every rank had something to fill, and the judge saw it.
    assert min(found["load"][0] for found in out) > 3
    assert min(found["load"][2] for found in out) > 20


def test_all_that_people_need_under_any_layout(ranks4, tmp_path):
    layouts = ["columns", "fsdp_tp", "stripes", "copies"]
    out = ranks4.run(ops.all_that_people_need, str(tmp_path), ["load", "stock"], layouts)
    for found in out:
        assert len(found) == 2 * len(layouts)
        for (loader, layout), (before, after, judged, objects, report) in found.items():
            assert len(before) > 5
            assert (after, judged, objects) == ([], (), (0.125, 7)), (loader, layout)
            if loader == "load":
                assert report.unexpected == ()
                assert set(report.loaded) == {*ops.needed()[0], "optim.lr.qkv", "step"} - {"new"}
                padding = (Box((11, 0), (5, 4)),)
                assert report.kept == {"emb": padding, "head": padding, "new": (Box((0, 0), (3, 3)),)}
    foretold = forecast_of(tmp_path, Layout.parse("4", "Shard(1)"))
    counted = [found["load", "columns"][-1] for found in out]
    assert foretold.bytes_by_rank.tolist() == [report.nbytes for report in counted]
    assert foretold.reads.tolist() == [report.reads for report in counted]


def forecast_of(path, layout):
    """What the load of all that people need is foretold to read."""
    metadata = open_checkpoint(path).metadata
    target = {
        key: Tensor(key, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for key, tensor in ops.needed()[0].items()
    }
    bound = bind(ops.NEEDED, {tensor.fqn: tensor for tensor in metadata.tensors}, target)
    return forecast(metadata, behind(bound, holdings(target.values(), layout)), 4)


def test_into_what_is_no_dtensor(ranks4, tmp_path):
    for found in ranks4.run(ops.what_is_no_dtensor, str(tmp_path), LOADERS):
        assert found == dict.fromkeys(LOADERS, ([], True))


def test_stock_makes_no_values_up_either(ranks4, tmp_path):
    for told in ranks4.run(ops.kept_without_values, str(tmp_path)):
        assert "on the meta device they have no values" in told
        assert "\n  new: Box[0:2]" in told


@pytest.fixture
def path(tmp_path):
    save({"m": {"w": torch.arange(12.0).reshape(3, 4), "b": torch.ones(3)}, "step": 5}, tmp_path)
    return tmp_path


def zeros(**more):
    return {"w": torch.zeros(4, 3), "b": torch.zeros(3), "step": 0, **more}


TURNED = Transform(rename=((r"^m\.", ""),), parts={"w": Part("m.w", dims=(1, 0))})


def test_a_file_is_read_and_a_load_mended(path, tmp_path_factory):
    file = tmp_path_factory.mktemp("mend") / "mend.json"
    TURNED.save(file)
    state = zeros()
    report = load(state, path, transform=Transform.read(file), strict="both")
    assert state["w"].tolist() == torch.arange(12.0).reshape(3, 4).t().tolist()
    assert (state["b"].tolist(), state["step"]) == ([1, 1, 1], 5)
    assert report.loaded == ("w", "b", "step")


def test_some_keys_alone(path):
    state = zeros()
    report = load(state, path, transform=TURNED, keys="w")
    assert report.loaded == ("w",)
    assert (report.unexpected, report.kept) == ((), {})
    assert state["w"].count_nonzero() == 11
    assert (state["b"].count_nonzero(), state["step"]) == (0, 0)


def test_what_the_checkpoint_has_not_is_refused_or_reported(path):
    state = zeros(new=torch.zeros(2), other=torch.zeros(1))
    transform = TURNED | Transform(parts={"other": (Part("m.b"), Part("m.x"))})
    with pytest.raises(MismatchError) as caught:
        load(state, path, transform=transform)
    assert [(m.kind, m.fqn) for m in caught.value.problems] == [("missing", "new"), ("missing", "other")]
    assert not any(state[key].any() for key in ("w", "b", "new", "other"))
    report = load(state, path, transform=transform, strict=False)
    assert (report.missing, report.kept) == (("new", "other"), {})
    assert state["w"].count_nonzero() == 11


@pytest.mark.parametrize(
    ("transform", "error", "why"),
    [
        (
            TURNED | Transform(parts={"b": Part("m.b", stored=((0, 2),))}),
            MismatchError,
            "2 elements do not go",
        ),
        (TURNED | Transform(parts={"b": Part("m.b", into=((1, 4),))}), MismatchError, "is not within 3"),
        (Transform(rename=(("^m.*", "w"),)), LayoutError, "gives several keys one name"),
        (Transform(rename=((r"^m\.", ""),)), MismatchError, "the transpose"),
    ],
)
def test_a_transform_that_does_not_fit_is_refused_before_a_byte_moves(path, transform, error, why):
    state = zeros()
    with pytest.raises(error, match=why):
        load(state, path, transform=transform)
    assert not state["w"].any()
    assert not state["b"].any()
    assert state["step"] == 0


def test_renames_have_one_place(path):
    with pytest.raises(LayoutError, match="either `rename` or a `transform`"):
        load(zeros(), path, transform=TURNED, rename={"m.w": "w"})


def test_the_policy_of_dtypes_is_the_transforms_or_the_loads(path):
    half = {"w": torch.zeros(4, 3, dtype=torch.bfloat16), "b": torch.zeros(3, dtype=torch.float64), "step": 0}
    with pytest.raises(MismatchError, match="dtype"):
        load(half, path, transform=TURNED)
    with pytest.raises(MismatchError, match="w: checkpoint float32, target bfloat16"):
        load(half, path, transform=TURNED | Transform(dtype="widen"))
    assert not half["w"].any()
    load(half, path, transform=TURNED | Transform(dtype="narrow"), keys=["b"])
    assert half["b"].tolist() == [1, 1, 1]
    save({"m.w": torch.full((3, 4), 1.001)}, path)
    with pytest.warns(UserWarning, match=r"narrower than the checkpoint's:\n  m.w, now bfloat16"):
        load(half, path, transform=TURNED, keys=["w"], dtype="narrow")
    assert half["w"].unique().tolist() == [1]


def test_a_model_without_memory_is_loaded_and_what_it_keeps_is_left_to_its_owner(path):
    with torch.device("meta"):
        model = torch.nn.Linear(3, 4)
    state = {"w": model.weight, "b": torch.zeros(3), "new": model.bias, "step": 0}
    load(state, path, transform=TURNED | Transform(leave=("new",)))
    assert state["w"].tolist() == torch.arange(12.0).reshape(3, 4).t().tolist()
    assert state["new"].is_meta
    padded = {"w": torch.zeros(9, 3, device="meta")}
    parts = {"w": Part("m.w", dims=(1, 0), into=((0, 4), (0, 3)))}
    with pytest.raises(LayoutError, match=r"on the meta device they have no values.*\n  w: Box\[4:9, 0:3\]"):
        load(padded, path, transform=Transform(parts=parts, leave=("w",)))


def test_tied_weights_many_times_over_and_whatever_verify_says(path):
    names = [f"copy{i}" for i in range(9)]
    state = {name: torch.zeros(3) for name in names}
    report = load(state, path, transform=Transform(parts={name: Part("m.b") for name in names}), verify=True)
    assert all(state[name].tolist() == [1, 1, 1] for name in names)
    assert report.nbytes == 9 * 12


def test_targets_in_any_memory(path):
    room = torch.zeros(5, 8)
    state = {"w": room[1:4, ::2].t()}
    load(state, path, transform=Transform(parts={"w": Part("m.w", dims=(1, 0))}))
    assert room[1:4, ::2].tolist() == torch.arange(12.0).reshape(3, 4).tolist()
    assert room.count_nonzero() == 11


def test_the_judge_sees_a_wrong_element_and_no_kept_one(path):
    state = {"w": torch.full((9, 3), 4.0)}
    transform = Transform(parts={"w": Part("m.w", dims=(1, 0), into=((0, 4), (0, 3)))}, leave=("w",))
    load(state, path, transform=transform)
    assert verify_loaded(state, path, transform=transform).elements == 12
    state["w"][8, 2] = 0
    assert verify_loaded(state, path, transform=transform).equal
    state["w"][3, 2] += 1
    assert verify_loaded(state, path, transform=transform).different == ("w",)


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_from_files_of_other_formats(tmp_path, kind):
    tensors = {"m.w": torch.arange(12.0).reshape(3, 4), "m.b": torch.ones(3)}
    file = tmp_path / f"model.{kind}"
    if kind == "pt":
        torch.save({**tensors, "m.w": tensors["m.w"].t().contiguous().t()}, file)
    else:
        pytest.importorskip("safetensors.torch").save_file(tensors, file)
    state = {"w": torch.zeros(4, 3), "b": torch.zeros(3)}
    load(state, file, transform=TURNED, verify=True)
    assert (state["w"].tolist(), state["b"].tolist()) == (tensors["m.w"].t().tolist(), [1, 1, 1])
    assert verify_loaded(state, str(file), transform=TURNED).equal
