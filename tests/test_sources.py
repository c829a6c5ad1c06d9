"Where the settings of a published profile come from, what they are, and who makes a claim."

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from mvnb import claims, datasets, papers, protocols, recipes, runs, tables
from mvnb.methods import contrast

PAPERS = ("fame", "mac", "mgm", "mcl")


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("name", recipes.PUBLISHED)
def test_every_setting_has_a_source(paper, name):
    found = recipes.sources(paper, name)
    assert list(found["setting"]) == list(recipes.settings_of(recipes.profile(name, paper)))
    assert found["where, or why"].str.len().min() >= 5
    assert set(found["source"]) == {"paper", "released code", "ours"}


@pytest.mark.parametrize("paper", PAPERS)
def test_a_setting_without_a_source_is_refused(paper, monkeypatch):
    part = papers.part(paper, "recipe")
    longer = dataclasses.replace(part.PAPER, probing=part.PAPER.probing | dict(unheard_of=1.0))
    monkeypatch.setattr(part, "PAPER", longer)
    with pytest.raises(ValueError, match=r"no source: .*probing\.unheard_of"):
        recipes.sources(paper)


def test_a_source_of_no_setting_is_refused(monkeypatch):
    part = papers.part("fame", "recipe")
    stray = (recipes.Source("paper", "nowhere"), ["finetune.colour"])
    monkeypatch.setattr(part, "SOURCES", [*part.SOURCES, stray])
    with pytest.raises(ValueError, match="finetune.colour"):
        recipes.sources("fame")


@pytest.mark.parametrize("who, where", [("someone", "Table 1"), ("paper", "")])
def test_a_source_says_who_and_where(who, where):
    with pytest.raises(ValueError, match="paper, released, ours"):
        recipes.Source(who, where)


def settings(paper, name="paper"):
    return recipes.settings_of(recipes.profile(name, paper))


def test_fame_is_what_its_authors_ran():
    "Facts of the paper's implementation details and of the released code, written down here once more."
    expected = {
        "method.head": "mlp",
        "model.i3d.bn_eps": 1e-5,
        "method.temperature": 0.1,
        "method.queue": 2048,
        "on_data.kinetics400.queue": 65536,
        "pretrain.epochs": 200,
        "pretrain.lr": 0.01,
        "finetune.lr": 0.025,
        "finetuning.dropout": 0.7,
        "finetune_photometric.gray": 0.2,
        "finetune_photometric.p_jitter": 0.8,
        "finetune_photometric.blur": 0.0,
        "linear.weight_decay": 0.0,
        "probing.normalize": True,
        "retrieving.normalize_clips": True,
        "method.split_bn": 64 // 8,  # a batch of 64 on eight devices
    }
    have = settings("fame")
    assert {name: have[name] for name in expected} == expected
    assert have["linear.lr"] / have["linear.batch_size"] == 30 / 256


def test_mgm_is_what_its_tables_say():
    "Tables 5 and 6 and Section 4.2, written down here once more."
    have = settings("mgm")
    expected = {
        "pretrain.lr": 1.5e-4 * 512 / 256,
        "pretrain.warmup_epochs": 40,
        "pretrain.betas": (0.9, 0.95),
        "sets.ssv2.pretrain_clips.stride": 2,
        "pretrain_clips.stride": 4,
        "photometric.flip": 0.5,
        "sets.ssv2.photometric.flip": 0.0,
        "sets.ssv2.finetune_photometric.flip": 0.0,
        "test_views": 5 * 3,
        "sets.ssv2.test_views": 2 * 3,
        "sets.ssv2.finetune_clips.sampling": "segments",
    }
    assert {name: have[name] for name in expected} == expected
    rows = {  # base rate, layer decay, epochs, warm-up, drop path
        "sets.ssv2.": (5e-4, 0.75, 30, 5, 0.1),
        "": (1e-3, 0.75, 75, 5, 0.1),
        "sets.ucf101.": (5e-4, 0.75, 100, 0, 0.2),
        "sets.hmdb51.": (5e-4, 0.7, 100, 0, 0.2),
        "sets.diving48.": (5e-4, 0.7, 100, 0, 0.2),
        "sets.ucf14-hmdb7.": (5e-4, 0.75, 100, 0, 0.2),  # trained on UCF101's videos
        "sets.hmdb14-ucf7.": (5e-4, 0.7, 100, 0, 0.2),
    }
    assert have["pretrain.min_lr"] == 1e-5 * 512 / 256
    for name, (base, *rest) in rows.items():
        tuned = f"{name}finetune."
        assert have[f"{tuned}lr"] == pytest.approx(base * 128 / 256)
        assert have[f"{tuned}min_lr"] == 1e-6 * 128 / 256
        found = [have[f"{tuned}{part}"] for part in ("layer_decay", "epochs", "warmup_epochs")]
        assert found + [have[f"{name}finetuning.drop_path"]] == rest
        assert have[f"{name}finetuning.repeats"] == 2 and have[f"{tuned}batch_size"] == 128


def test_another_domain_takes_the_settings_of_the_videos_it_is_trained_on():
    profile = recipes.profile("paper", "mgm")
    pretrained = recipes.pretraining(profile, "mgm", "kinetics400", "vit")
    for direction, source in (("ucf14-hmdb7", "ucf101"), ("hmdb14-ucf7", "hmdb51")):
        tuned, usual = (recipes.finetuning(profile, name, pretrained) for name in (direction, source))
        assert tuned.schedule == usual.schedule and tuned.params == usual.params


def test_a_data_set_has_its_own_fields_in_pretraining_and_in_evaluation():
    profile = recipes.profile("paper", "mgm")
    other = dataclasses.replace(profile, sets={})
    for data in ("ssv2", "kinetics400", "hmdb51"):
        pretrained = recipes.pretraining(profile, "mgm", data, "vit")
        tuned = recipes.finetuning(profile, "ssv2", pretrained)
        assert pretrained.clips.stride == (2 if data == "ssv2" else 4)
        assert tuned.clips.sampling == "segments" and tuned.schedule.epochs == 30
        assert recipes.linear_probing(profile, "ssv2", pretrained).test_views == 6
        assert recipes.retrieving(profile, "ssv2", pretrained).clips.stride == 2
        assert recipes.finetuning(other, data, pretrained).schedule.epochs == 75


def test_mcl_is_what_its_text_and_code_say():
    "Section 4.2 of the paper, and the released code, written down here once more."
    expected = {
        "pretrain_clips.length": 16,
        "pretrain_clips.stride": 2,
        "pretrain_clips.size": 224,
        "pretrain.batch_size": 64,
        "pretrain.lr": 0.01,
        "pretrain.epochs": 200,
        "schedules.kinetics400.epochs": 400,
        "method.queue": 131072,
        "method.momentum": 0.999,
        "method.temperature": 0.1,
        "method.dim": 128,
        "method.start": "imagenet",
        "test_views": 20,
        "probing.svm": True,
        "probing.C": 1.0,
        "finetune_crops": 3,
    }
    text, code = settings("mcl"), settings("mcl", "released")
    assert {name: text[name] for name in expected} == expected
    assert {
        name: code[f"method.{name}"] for name in ("objective", "double", "p_motion", "per_frame", "released")
    } == {"objective": "seco", "double": 5, "p_motion": 0.7, "per_frame": True, "released": True}
    assert code["pretrain.batch_size"] == 4 * 8 and code["schedules.kinetics400.lr"] == 0.02
    assert code["on_data.kinetics400.order_epochs"] == text["on_data.kinetics400.order_epochs"] == 0
    assert text["method.order_epochs"] == text["pretrain.epochs"] == 200
    assert code["pretrain.min_lr"] == code["schedules.kinetics400.min_lr"] == 1e-6
    assert text["pretrain.min_lr"] == 0


def test_three_crops_after_fine_tuning_alone():
    profile = recipes.profile("paper", "mcl")
    pre = recipes.pretraining(profile, "mcl", "ucf101", "r2plus1d50")
    tuned, probed = recipes.finetuning(profile, "hmdb51", pre), recipes.linear_probing(profile, "ucf101", pre)
    assert (tuned.clips.crops, tuned.clips.test_resize, tuned.test_views) == (3, None, 60)
    assert (probed.clips.crops, probed.clips.test_resize, probed.test_views) == (1, 256, 20)
    assert probed.schedule is None and runs._protocol(probed).svm
    softmax = recipes.linear_probing(profile, "kinetics400", pre)
    assert softmax.schedule.epochs and not runs._protocol(softmax).svm
    for paper in ("fame", "mac", "mgm"):
        assert recipes.profile("paper", paper).finetune_crops is None


def test_mac_is_what_its_authors_ran():
    expected = {
        "method.temperature": 0.2,
        "method.queue": 65536,
        "method.dropout": 0.5,
        "method.head_std": 0.001,
        "pretrain.clip_grad": 40,
        "finetune.clip_grad": 40,
        "finetune.weight_decay": 5e-4,
        "pretrain.weight_decay": 1e-4,
        "finetuning.dropout": 0.5,
        "finetuning.average": "logits",
        "probing.normalize": True,
        "retrieving.pool": "max",
        "retrieving.centre": False,
        "pretrain_clips.short": "repeat",
        "finetune_clips.short": "repeat",
        "finetune_clips.test_resize": (171, 128),
        "finetune_clips.still_from": "clip",
        "photometric.p_brightness": 0.8,
        "finetune_photometric.p_brightness": 0.2,
        "finetune_photometric.flip": 0.35,
    }
    have = settings("mac")
    assert {name: have[name] for name in expected} == expected
    assert set(have["pretrain_clips.resize"]) == {(149, 112), (171, 128), (192, 144)}


def test_released_differs_from_the_text_where_the_code_does():
    text, code = settings("mac"), settings("mac", "released")
    differs = {name for name in code if text.get(name) != code[name]}
    assert differs == {
        *(f"method.{name}" for name in ("convention", "soft", "dilate", "copy_first", "blend", "symmetric")),
        "schedules.kinetics400.epochs",
        "on_data.kinetics400.ss_weight",
    }
    pre = tables.table("mac", 3).plan("released").cells["MAC-SC-2 K400 finetune", "UCF101", 0].parent
    assert pre.params["convention"] == "released" and pre.params["ss_weight"] == 0.5
    assert recipes.profile("released", "fame") == recipes.profile("paper", "fame")


def test_regressions_are_squashed_at_the_published_profiles_only():
    regress = "MSE Regression Loss", "UCF101", 0
    plan = tables.table("mac", "s4").plan
    assert plan("paper").cells[regress].parent.params["sigmoid"] is True
    assert "sigmoid" not in plan("demo").cells[regress].parent.params


def test_both_conventions_of_m_are_rows():
    cells = tables.table("mac", "s7").plan("paper").cells
    params = {row: recipe.parent.params for (row, _, _), recipe in cells.items()}
    assert {row for row, given in params.items() if given.get("convention") == "released"} == {
        "0.1, released",
        "1, released",
    }
    assert {params[f"{m}, released"]["m"] for m in ("0.1", "1")} == {0.1, 1.0}


def test_a_plan_shows_sources_at_the_published_profiles_only():
    table = tables.table("fame", "3")
    pd.testing.assert_frame_equal(table.plan("paper").sources, recipes.sources("fame"))
    assert table.plan("demo").sources is None


def test_split_bn_is_for_one_process(monkeypatch):
    "Several processes mix the keys' batches among themselves instead."
    method = contrast.MoCo("r2plus1d_tiny", queue=8, split_bn=2)
    called = []
    monkeypatch.setattr(contrast, "encode_split", lambda *args: called.append("split"))
    monkeypatch.setattr(contrast, "encode_shuffled", lambda *args: called.append("shuffled"))
    for processes in (1, 2):
        monkeypatch.setattr(contrast, "_place", lambda: (0, processes))
        method.contrast.keys(torch.zeros(4, 3, 4, 32, 32), np.random.default_rng(0))
    assert called == ["split", "shuffled"]


@pytest.mark.parametrize("train", [True, False])
def test_the_rules_of_clips_reach_an_evaluation(puppets_root, train):
    index = datasets.load("puppets-u", "train", root=puppets_root, scale=0.06)
    recipe = recipes.finetuning(recipes.profile("paper", "mac"), "ucf101", None, "r2plus1d")
    found = protocols.clips_of(index, runs._protocol(recipe), train)
    assert (found.short, found.still_from) == ("repeat", "clip")
    assert found.resize == ((149, 112), (171, 128), (192, 144)) and found.test_resize == (171, 128)


def test_a_child_builds_its_backbone_as_its_parent_did():
    pre = recipes.pretraining(recipes.profile("paper", "fame"), "moco", "ucf101", "i3d")
    child = recipes.finetuning(recipes.profile("paper", "fame"), "ucf101", pre)
    assert pre.model == child.model == {"bn_eps": 1e-5}
    with pytest.raises(ValueError, match="bn_eps"):
        dataclasses.replace(child, model=recipes.Options())


# ---------------------------------------------------------------- who makes a claim


def test_a_claim_is_the_text_s_the_table_s_or_ours():
    said = {(d.paper, claim.by) for d in tables.definitions() for claim in d.claims if d.paper in PAPERS}
    assert said == {("fame", "text"), ("fame", "table"), ("fame", "ours")} | {
        ("mac", "text"),
        ("mac", "table"),
        ("mac", "ours"),
        ("mgm", "text"),
        ("mgm", "table"),
    } | {("mcl", by) for by in ("text", "table", "ours")}
    with pytest.raises(ValueError, match="use one of text, table, ours"):
        tables.Claim("x", "a", ("p",), ("q",), by="paper")


@pytest.mark.parametrize("lead, verdict", [(20, "holds"), (10, "undecided"), (0, "fails")])
def test_a_claim_may_ask_for_a_lead(lead, verdict):
    "In each of three worlds the better row is `lead` points ahead; it should be by 10 points at least."
    worse = np.array([20.0, 30, 25])
    assert claims.judge(worse + lead, worse, least=10).verdict == verdict
    assert tables.Claim("x", "a", ("p",), ("q",), least=10).strength(lead) == lead - 10
