"MCL's tables: what each row switches on, network and videos; the published numbers bear the claims out."

import math
from types import SimpleNamespace

import pytest

from mvnb import outcomes, recipes, tables

NUMBERS = ("1", "2", "3", "4", "5")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, puppets_root):
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path / "runs"))


def plan(number, profile="demo", **more):
    return tables.table("mcl", number).plan(profile, **more)


def parents(number, profile="demo", column=None):
    "row -> pretraining, of one column."
    cells = plan(number, profile).cells
    return {row: cell.parent for (row, at, _), cell in cells.items() if column in (None, at)}


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_table_1_switches_one_part_after_the_other(profile):
    made = {row: recipe.params for row, recipe in parents("1", profile, "R(2+1)D").items()}
    switched = {row: (p["guide_time"], p["guide_crop"], tuple(p["terms"])) for row, p in made.items()}
    assert switched == {
        "baseline": (False, False, ()),
        "TA": ("median", False, ()),
        "SA": (False, True, ()),
        "TA + SA": ("median", True, ()),
        "TA + SA + L_t": ("median", True, ("T",)),
        "TA + SA + L_s": ("median", True, ("S",)),
        "TA + SA + L_st": ("median", True, ("ST",)),
        "MCL": ("median", True, ("S", "T", "ST")),
        "SeCo": (False, False, ()),
        "vectors": ("median", True, ("S", "T", "ST")),
    }
    assert made["vectors"]["maps"] == "vectors" != made["MCL"].get("maps", "tvl1")
    assert made["SeCo"]["objective"] == "seco" and made["baseline"].get("objective", "nce") == "nce"


def test_weights_that_are_missing_leave_columns_and_rows_out(monkeypatch, shared_data, tmp_path):
    "MoCo's on ImageNet: in Table 1 the two networks that start from them, in Table 3 all rows but S3D's."
    monkeypatch.setenv("MVNB_DATA_UCF101", str(shared_data / "mini"))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(shared_data / "annotations" / "mini"))
    monkeypatch.setenv("MVNB_WEIGHTS_MOCO_RESNET50", str(tmp_path / "none.pth.tar"))
    one = plan("1", "paper", device="cpu").videos
    assert {key for key, data in one.columns.items() if data} == {"I2D", "S3D"} and not one.blocked
    assert "none.pth.tar" in one.why_not["Column R(2+1)D"]
    three = plan("3", "paper", device="cpu").videos
    assert set(three.pretrain) == {"MCL S3D"} and "none.pth.tar" in three.why_not["Row SeCo, R-50"]


def test_table_1_s_columns_are_networks():
    cells = plan("1", "paper").cells
    networks = {column: cell.backbone for (_, column, _), cell in cells.items()}
    assert networks == {"R2D": "r2d_50", "R(2+1)D": "r2plus1d_50", "I2D": "i2d", "S3D": "s3d"}
    starts = {column: cell.parent.params["start"] for (_, column, _), cell in cells.items()}
    assert starts == {"R2D": "imagenet", "R(2+1)D": "imagenet", "I2D": None, "S3D": None}
    single = {row for (row, column, _) in cells if column in ("R2D", "I2D")}
    assert not single & {"TA + SA + L_t", "TA + SA + L_st", "MCL"} and "TA + SA + L_s" in single


def test_the_parts_of_table_2_are_table_1_s():
    one, two = parents("1", "demo", "R(2+1)D"), parents("2")
    assert two["none"].hash == one["TA + SA"].hash and two["v3"].hash == one["MCL"].hash
    assert [two[v].params.get("variant", "v3") for v in ("v1", "v2", "v3")] == ["v1", "v2", "v3"]


def test_protocols_are_the_paper_s():
    linear = plan("3", "paper").cells
    on_ucf = linear["MCL R(2+1)D", "UCF101", 0]
    assert on_ucf.kind == "linear" and on_ucf.params["svm"] and on_ucf.test_views == 20
    on_kinetics = linear["MCL R(2+1)D K400", "K400", 0]
    assert on_kinetics.kind == "linear" and not on_kinetics.params.get("svm")
    assert on_kinetics.parent.schedule.epochs == 400 and on_ucf.parent.schedule.epochs == 200
    assert {cell.kind for cell in plan("4", "paper").cells.values()} == {"finetune"}
    assert {cell.kind for cell in plan("5", "paper").cells.values()} == {"retrieval"}


def test_retrieval_on_hmdb51_searches_with_features_of_ucf101():
    cells = plan("5", "paper").cells
    assert {cell.parent.data.name for cell in cells.values()} == {"ucf101"}
    assert {cell.data.name for cell in cells.values()} == {"ucf101", "hmdb51"}


@pytest.mark.parametrize("number", NUMBERS)
def test_the_paper_s_numbers_bear_its_claims_out(number):
    t = tables.table("mcl", number)
    for claim in t.claims:
        gap = claim.gap(t.published)
        if claim.by == "ours":
            assert math.isnan(gap)
        else:
            assert claim.strength(gap) > 0, (claim.text, claim.place, gap)


def test_published_gains_of_the_text():
    three, four, five = (tables.table("mcl", n).published for n in ("3", "4", "5"))
    ucf, kinetics = three["UCF101"], three["K400"]
    assert round(ucf["MCL R(2+1)D"] - ucf["SeCo R(2+1)D"], 2) == 3.93
    assert round(ucf["MCL R(2+1)D"] - ucf["ImageNet inflated"], 2) == 6.78
    assert round(ucf["MCL S3D"] - ucf["CoCLR"], 2) == 9.68
    assert round(kinetics["MCL R(2+1)D K400"] - kinetics["SeCo R(2+1)D K400"], 2) == 4.12
    assert round(kinetics["MCL R(2+1)D K400"] - kinetics["CVRL"], 2) == 0.52
    best = four.loc["MCL R(2+1)D K400"] - four.loc["CVRL"]
    assert best.round(2).tolist() == [1.21, 2.38]
    first = five[["UCF101 R@1", "HMDB51 R@1"]]
    assert (first.loc["MCL S3D"] - first.loc["CoCLR-2Stream"]).round(1).tolist() == [11.1, 0.6]
    assert (first.loc["MCL R(2+1)D"] - first.loc["MCL S3D"]).round(1).tolist() == [1.6, 2.3]


@pytest.mark.parametrize("number", NUMBERS)
def test_they_run(number):
    t = tables.table("mcl", number)
    out = t.run(t.plan("smoke"))
    assert not out.frame["value"].isna().any() and "not judged" in str(out.claims)


def test_small_profiles_have_no_network_without_a_stand_in():
    small = recipes.profile("demo", "mcl")
    for number in NUMBERS:
        for profile in ("demo", "smoke"):
            used = {cell.backbone for cell in plan(number, profile).cells.values()}
            assert used <= set(small.backbones.values()), (number, used)


def test_the_demo_contrasts_as_for_every_other_method():
    "What MCL's demo has of its own is added to the profile's options and takes none away."
    usual = recipes.DEMO.method
    for recipe in parents("1").values():
        mine = {name: value for name, value in recipe.params.items() if name in usual}
        assert mine == {name: value for name, value in usual.items() if name != "symmetric"}
        assert recipe.params.get("maps") in ("dis", "vectors")


def test_rows_that_some_networks_lack_are_drawn_where_they_are():
    "Networks of single frames have no alignment over time; the picture and the table leave these cells out."
    asked = plan("1")
    results = {}
    for number, (cell, recipe) in enumerate(asked.cells.items()):
        results[cell] = SimpleNamespace(metrics={test: {"top1": float(number)} for test, _ in recipe.tests})
    outcome = outcomes.Outcome(asked, results)
    assert outcome.cell(outcome.definition.rows[4], "R2D", "biased") == "not run"
    dots = sum(len(line.get_xdata()) for line in outcome.figure().axes[1].lines)
    assert dots >= sum(len(recipe.tests) for recipe in asked.cells.values())
