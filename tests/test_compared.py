"""The table of our own that sets the four methods side by side."""

import pytest

from mvnb import recipes, tables


def planned(profile="demo", **more):
    return tables.table("compared", 1).plan(profile, **more)


def test_rows_of_a_network_differ_in_the_method_alone():
    "Same videos, clips, network, tests and, but for masked autoencoders, schedule."
    pairs = [("MoCo", "MAC"), ("MoCo", "FAME"), ("MoCo", "MCL"), ("VideoMAE", "MGM")]
    for profile in ("demo", "paper"):
        cells = planned(profile, data="puppets" if profile == "demo" else "").cells
        for one, other in pairs + [(f"{a} ViT", f"{b} ViT") for a, b in pairs[:3]]:
            for column in ("UCF101 linear", "UCF101 fine-tuned", "UCF101 R@1"):
                a, b = (cells[row, column, 0] for row in (one, other))
                for run, twin in ((a, b), (a.parent, b.parent)):
                    same = ("data", "backbone", "model", "clips", "schedule", "tests", "seed", "photometric")
                    assert all(getattr(run, name) == getattr(twin, name) for name in same), (one, other)


def test_a_column_says_how_it_is_read():
    kinds = {column: recipe.kind for (_, column, _), recipe in planned().cells.items()}
    assert kinds == {"UCF101 linear": "linear", "UCF101 fine-tuned": "finetune", "UCF101 R@1": "retrieval"}
    of_one = {r.parent.hash for (row, _, _), r in planned().cells.items() if row == "FAME"}
    assert len(of_one) == 1  # one pretraining, read in three ways


def test_the_demo_has_all_four_methods():
    methods = {r.parent.method for r in planned().cells.values() if r.parent}
    assert methods == {"moco", "mac", "fame", "mcl", "mgm"}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MVNB_PATHS_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield tables.table("compared", 1).run("smoke", progress=False)


def test_nothing_stands_beside_its_numbers(outcome):
    shown = outcome.comparison
    assert not any(heading[0] == "published" for heading in shown.columns)
    assert {recipes.FAIR, recipes.DEVIATION} <= {heading[2] for heading in shown.columns}
    assert "No paper has this table" in outcome.provenance[0]
    assert "published" not in str(outcome).lower()
    assert len(outcome.figure().axes) == 1
    verdicts = outcome.claims
    assert "column" in verdicts.frame and "published gap" not in verdicts.frame
    assert not any("Ours, not the paper's" in note for note in verdicts.notes)
    looks = [line for line in outcome.figure().axes[0].lines if len(line.get_xdata())]
    assert looks
