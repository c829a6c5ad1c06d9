"A file of weights beside a table's rows, at smoke scale."

import dataclasses
import json

import pytest
import torch

from mvnb import cli, models, recipes, runs, tables, vit


@pytest.fixture
def here(tmp_path, monkeypatch, puppets_root):
    "An empty store, puppets made once for the session, and no real data."
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MVNB_DATA_PUPPETS", str(puppets_root))
    for name in ("UCF101", "HMDB51", "KINETICS400"):
        monkeypatch.setenv(f"MVNB_DATA_{name}", str(tmp_path / f"no-{name}"))
    return tmp_path


@pytest.fixture
def published(tmp_path):
    "An R(2+1)D as MoCo saves one, without metadata."
    torch.manual_seed(5)
    state = models.build("r2plus1d_tiny").state_dict()
    path = tmp_path / "theirs.pth.tar"
    torch.save({"state_dict": {f"module.encoder_q.{k}": v for k, v in state.items()}}, path)
    return path


@pytest.fixture
def own(tmp_path):
    "An encoder whose file says what it is."
    torch.manual_seed(6)
    model = models.build("r2plus1d_tiny", widths=(8, 16, 16))
    about = {"backbone": "r2plus1d_tiny", "model": {"widths": [8, 16, 16]}}
    about |= {"method": "fame", "data": {"name": "my-videos"}}
    return models.save_weights(model, tmp_path / "own.safetensors", {"recipe": about})


def run(encoder, backbone=None, number=2, **more):
    table = tables.table("fame", number)
    return table.run(
        "smoke", device="cpu", workers=0, progress=False, encoder=encoder, backbone=backbone, **more
    )


def test_a_published_file_is_a_row_and_is_computed_once(here, published, monkeypatch):
    out = run(published, "r2plus1d_tiny")
    row = out.definition.rows[-1]
    assert row.label == "encoder: theirs.pth.tar" and row.extra
    measured = out.comparison.iloc[-1]
    assert all(value == "" for value in measured["published"])
    assert {float(v) >= 0 for v in measured["ours, smoke profile"] if v != "not run"} == {True}
    text = str(out)
    digest = models.sha256(published)
    assert f"encoder: theirs.pth.tar is not the paper's; SHA-256 {digest}" in text
    assert "backbone r2plus1d_tiny; its metadata say nothing" in text and "No claim is judged" in text
    recipe = out.plan.cells[row.key, out.definition.columns[0].key, 0]
    assert recipe.model == {"weights": f"sha256:{digest}"} and recipe.parent is None
    assert recipes.from_json(recipe.json()) == recipe and runs.find(recipe) is not None
    moved = published.rename(published.with_name("moved.pth.tar"))
    monkeypatch.setattr(runs, "ensure", lambda *a, **k: pytest.fail("computed again"))
    again = run(moved, "r2plus1d_tiny")
    assert again.frame["value"].tolist() == out.frame["value"].tolist()


def test_an_own_file_says_itself_and_goes_through_the_command(here, own, capsys):
    words = ["table", "fame", "2", "--profile", "smoke", "--device", "cpu", "--encoder", str(own)]
    assert cli.main([*words, "-p", "workers=0"]) == 0
    text = capsys.readouterr().out
    assert "encoder: own.safetensors" in text and "its metadata say: fame on my-videos" in text
    assert not (here / "outputs").exists() or not list((here / "outputs").rglob("*.ipynb"))


def test_hugging_face_s_folder_says_what_it_is(here, tmp_path):
    torch.manual_seed(8)
    model = models.build("vit_tiny", depth=2)
    folder = vit.to_hf(model, tmp_path / "hub", frames=8, size=32)
    found = tables.encoder_of(folder / "model.safetensors")
    assert found.backbone.startswith("vit") and found.model["depth"] == 2
    assert "say nothing about its training" in str(found)
    words = ["table", "mgm", "4e", "--profile", "smoke", "--device", "cpu", "--encoder", str(folder)]
    assert cli.main([*words, "-p", "workers=0"]) == 0


def test_other_weights_are_other_runs(here, own):
    "The same network with other weights is another recipe."
    torch.manual_seed(7)
    other = models.build("r2plus1d_tiny", widths=(8, 16, 16))
    meta = models.read_weights(own)[1]
    path = models.save_weights(other, own.with_name("other.safetensors"), meta)
    plans = [tables.table("fame", 2).plan("smoke", encoder=file) for file in (own, path)]
    hashes = [{recipe.hash for recipe in plan.runs} for plan in plans]
    assert not hashes[0] & hashes[1]


def test_without_an_encoder_nothing_changes(here):
    plan = tables.table("fame", 2).plan("smoke")
    assert plan.encoder is None and not any(row.method == "encoder" for row in plan.definition.rows)


def test_an_encoder_needs_no_data_to_pretrain_on(here, own):
    plan = tables.table("fame", 1).plan("paper", encoder=own)
    assert plan.videos.blocked.startswith("the tests need ucf101") and not plan.cells
    with pytest.raises(ValueError):
        tables.compute(plan)


@pytest.mark.parametrize("asked", [dict(profile="paper"), dict(profile="smoke", data="ucf101")])
def test_an_encoder_is_tested_where_only_a_test_set_is(here, own, shared_data, monkeypatch, asked):
    monkeypatch.setenv("MVNB_DATA_UCF101", str(shared_data / "mini"))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(shared_data / "annotations" / "mini"))
    plan = tables.table("fame", 2).plan(**asked, encoder=own, device="cpu")
    assert not plan.videos.blocked and plan.cells
    assert {recipe.data.name for recipe in plan.cells.values()} == {"ucf101"}


def test_stored_rows_stand_beside_it(here, own):
    table = tables.table("fame", 2)
    plan = table.plan("smoke")
    row = next(iter(plan.videos.pretrain))
    part = dataclasses.replace(plan, cells={k: v for k, v in plan.cells.items() if k[0] == row})
    tables.compute(part, "cpu", 0, False)
    out = run(own)
    label = next(r.label for r in plan.definition.rows if r.key == row)
    assert "not run" not in set(out.comparison.loc[label, "ours, smoke profile"]) - {""}
    assert out.figure() and out.claims is not None


@pytest.mark.parametrize(
    "backbone, sentence", [(None, "does not say which backbone"), ("i3d_tiny", "none of its")]
)
def test_a_file_that_does_not_fit(here, published, backbone, sentence):
    with pytest.raises(models.WeightsError, match=sentence) as caught:
        tables.table("fame", 2).plan("smoke", encoder=published, backbone=backbone)
    assert "\n" not in str(caught.value)


def test_a_remembered_file_that_changed_is_refused(here, own):
    name = models.remember(own)
    assert models.remembered(name) == own
    own.write_bytes(own.read_bytes() + b" ")
    with pytest.raises(models.WeightsError, match="name its file again"):
        models.build("r2plus1d_tiny", widths=(8, 16, 16), weights=name)
    with pytest.raises(models.WeightsError, match="no such file"):
        models.remember(own.with_name("none.pt"))
    assert json.dumps(name).startswith('"sha256:')


@pytest.mark.parametrize("theirs, expected", [(True, 1e-5), (False, 1e-3)])
def test_epsilon_is_the_file_s_and_not_the_profile_s(here, tmp_path, theirs, expected):
    "FAME's authors trained with 1e-5; an I3D of ours that says nothing of it had 1e-3, at profile paper too."
    model = models.build("i3d_tiny")
    if theirs:
        state = {f"module.encoder_q.{name}": value for name, value in model.state_dict().items()}
        state |= {f"module.encoder_q.id_head.{i}.weight": torch.zeros(2, 2) for i in (0, 2)}
        path = tmp_path / "fame.pth.tar"
        torch.save({"state_dict": state}, path)
    else:
        about = {"backbone": "i3d_tiny", "model": {}, "method": "moco"}
        path = models.save_weights(model, tmp_path / "ours.safetensors", {"recipe": about})
    plan = tables.table("fame", 1).plan("paper", encoder=str(path), backbone="i3d_tiny")
    assert plan.encoder.remark == ""
    loaded = models.build("i3d_tiny", **plan.encoder.model)
    assert {m.eps for m in loaded.modules() if isinstance(m, torch.nn.BatchNorm3d)} == {expected}


def test_an_encoder_of_another_network_takes_nothing_of_the_table_s(here, published, monkeypatch):
    "FAME's ablations are of I3D with ε 1e-5; an R(2+1)D beside them keeps its own."
    encoder = tables.encoder_of(str(published), "r2plus1d_tiny")
    assert set(encoder.model) == {"weights"}
    table = tables.table("fame", 3)
    monkeypatch.setattr(tables, "data_trouble", lambda name: "")
    plan = tables.beside(table.plan("paper"), encoder)
    rows = [recipe for (row, _, _), recipe in plan.cells.items() if row.startswith("encoder")]
    assert rows and {recipe.model for recipe in rows} == {encoder.model}
