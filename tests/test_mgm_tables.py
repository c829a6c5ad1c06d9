"MGM's tables: what each row is, on which videos, and that the small profiles change what they say."

import pytest

from mvnb import methods, recipes, tables

NUMBERS = ("1", "2", "3", "4a", "4b", "4c", "4d", "4e")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, puppets_root):
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path / "runs"))


def plan(number, profile="demo", **more):
    return tables.table("mgm", number).plan(profile, **more)


def test_table_1_is_pretrained_and_fine_tuned_on_the_same_data():
    for profile in ("demo", "paper"):
        cells = plan("1", profile).cells
        assert cells and all(r.parent.data.name == r.data.name for r in cells.values())
        assert ("MGM 2400", "K400", 0) not in cells and ("MGM 2400", "SSv2", 0) in cells
    paper = plan("1", "paper").cells
    for name in ("MGM", "VideoMAE"):
        for epochs in (800, 1600):
            assert paper[f"{name} {epochs}", "K400", 0].parent.schedule.epochs == epochs
    demo = plan("1").cells
    steps = [demo[f"MGM {epochs}", "SSv2", 0].parent.schedule.max_steps for epochs in (800, 1600, 2400)]
    assert steps == [1000, 2000, 3000]


def test_videomae_hides_tubes_at_its_own_ratio():
    mine = plan("1").cells["VideoMAE 2400", "SSv2", 0].parent
    ablation = plan("4e").cells["Random Tube", "SSv2", 0].parent
    assert mine == ablation and mine.params["mask"] == "tube" and mine.params.get("ratio") is None


def test_table_2_s_chains():
    cells = plan("2", "paper").cells
    kinds = {key[0]: [r.kind for r in recipes.chain(recipe)] for key, recipe in cells.items()}
    assert kinds["MGM K400 finetune"] == ["pretrain", "finetune"]
    assert kinds["MGM+labels SSv2 finetune"] == ["pretrain", "finetune", "finetune"]
    assert kinds["Supervised K400 linear"] == ["finetune", "linear"]
    labelled = cells["MGM+labels K400 finetune", "UCF101", 0].parent
    assert labelled == recipes.finetuning(recipes.profile("paper", "mgm"), "kinetics400", labelled.parent)
    setup = plan("2", "paper").setup
    assert "labels of kinetics400" in set(setup["pretrained on"])
    assert "ssv2, then labels of ssv2" in set(setup["pretrained on"])


def test_table_3_tests_another_domain():
    for (_, column, _), recipe in plan("3").cells.items():
        source, target = (
            ("puppets-u", "puppets-h") if column.startswith("UCF") else ("puppets-h", "puppets-u")
        )
        assert recipe.data.name == source
        assert {(data.name, data.among) for _, data in recipe.tests} == {(target, source)}
    assert {r.data.name for r in plan("3", "paper").cells.values()} == {
        "ucf14-hmdb7-source",
        "hmdb14-ucf7-source",
    }


def test_table_4_varies_one_thing():
    for profile in ("demo", "paper"):
        same = {"4a": "ViT-B", "4b": "motion vector", "4c": "yes", "4e": "MGM (Dense)"}
        found = {plan(n, profile).cells[row, "SSv2", 0] for n, row in same.items()}
        assert len(found) == 1
    assert found.pop().parent.schedule.epochs == 200
    names = [plan("4a").cells[row, "SSv2", 0].backbone for row in ("ViT-S", "ViT-B", "TimeSformer")]
    assert names == ["vit_micro", "vit_tiny", "timesformer_tiny"]
    cells = plan("4d").cells
    few, all_ = (cells[row, "K400", 0].parent for row in ("Mini-K200", "K400"))
    assert few.data.videos == round(all_.data.videos / 3)
    few, all_ = (
        (r.schedule.max_steps, r.schedule.warmup_epochs * (r.data.videos // 32)) for r in (few, all_)
    )
    assert few == pytest.approx(all_)  # as many steps, and as many to warm up
    paper = plan("4d", "paper").cells
    assert paper["Mini-K200", "K400", 0].parent.data.name == "minikinetics200"
    assert {r.parent.params["mask"] for r in plan("4e").cells.values()} == {
        *("block", "tube", "smm", "smm_sparse", "mgm", "mgm_sparse")
    }


def test_table_4b_s_flow_is_raft_s_only_in_the_paper_profile():
    for profile, how in (("smoke", "dis"), ("demo", "dis"), ("paper", "raft")):
        cells = plan("4b", profile).cells
        flow, vectors = (cells[row, "SSv2", 0].parent for row in ("optical flow", "motion vector"))
        assert flow.params == vectors.params | {"guidance": how}
        assert "guidance" not in vectors.params
        assert f"guidance {how}" in str(flow)


def test_without_raft_s_weights_its_row_cannot_start(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_WEIGHTS_RAFT_SMALL", str(tmp_path / "none.pth"))
    monkeypatch.setattr(recipes.Data, "load", lambda self: None)
    flow, vectors = tables.table("mgm", "4b").definition.rows
    for row, profile, trouble in ((flow, "paper", True), (vectors, "paper", False), (flow, "demo", False)):
        why = tables.start_trouble(row, row.profile(profile, "mgm"), "ssv2", "vit")
        assert ("no such file of weights" in why) == trouble, why
    params = dict(guidance="raft")
    assert methods.inputs("mgm", params) and not methods.inputs("mgm", params | dict(mask="tube"))


@pytest.mark.parametrize("number", NUMBERS)
def test_small_profiles_train_on_labels_without_scene_bias(number):
    for profile in ("smoke", "demo"):
        for recipe in plan(number, profile).cells.values():
            assert recipe.data.split == "probe"
            flips = {
                part.photometric.get("flip", 0.0)
                for part in recipes.chain(recipe)
                if part.data.name == "puppets-s"
            }
            assert flips <= {0.0}  # its classes are directions


@pytest.mark.parametrize("number", NUMBERS)
def test_they_run(number):
    t = tables.table("mgm", number)
    out = t.run(t.plan("smoke"))
    assert not out.frame["value"].isna().any() and "not judged" in str(out.claims)


def test_linear_probes_are_read_again():
    "Rows with a linear probe alone, on unbiased videos; the numbers are in a table of their own."
    again = {r.kind: r for r in plan("2").cells.values() if recipes.DEVIATION in dict(r.tests)}
    assert set(again) == {"linear"}
    assert dict(again["linear"].tests)[recipes.DEVIATION] == dict(again["linear"].tests)["unbiased"]
    t = tables.table("mgm", "2")
    outcome = t.run(t.plan("smoke"))
    found = outcome.readings
    assert {test for _, test in found.columns} == {recipes.DEVIATION}
    assert list(found.index) == [row.label for row in t.definition.rows if row.protocol == "linear"]
    assert recipes.DEVIATION not in {test for *_, test in outcome.tests}
