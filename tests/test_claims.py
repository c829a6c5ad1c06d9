"Verdicts over seeds, p-values, the expected test, the summary: against SciPy, by hand, by simulation."

import functools
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings as hyp, strategies as st
from scipy import stats

from mvnb import claims, figures, runs, tables
from mvnb.claims import judge
from mvnb.outcomes import Outcome
from mvnb.tables import Claim

accuracy = st.floats(0, 100).map(lambda x: round(x, 2))
paired = st.integers(3, 9).flatmap(
    lambda n: st.tuples(*[st.lists(accuracy, min_size=n, max_size=n).map(np.array)] * 2)
)


def spread(pair) -> np.ndarray:
    "The differences of a pair, which must not be all alike: SciPy has no answer for those."
    d = pair[0] - pair[1]
    assume(np.ptp(d) > 0.01)
    return d


# ---------------------------------------------------------------- one inequality, against SciPy


@hyp(max_examples=200, deadline=None)
@given(paired, st.sampled_from([0.0, 1.5, 8.0]))
def test_beats_is_a_paired_t_test(pair, least):
    d = spread(pair)
    v = judge(*pair, least=least)
    low, high = stats.ttest_rel(*pair).confidence_interval(0.95)
    assert v.gap == pytest.approx((low + high) / 2) and v.margin == pytest.approx((high - low) / 2)
    assert v.p == pytest.approx(stats.ttest_1samp(d, least, alternative="greater").pvalue, abs=1e-9)
    assert v.n == len(d)
    assume(min(abs(low - least), abs(high - least)) > 1e-6)
    assert v.verdict == ("holds" if low > least else "fails" if high < least else "undecided")
    assert (v.verdict == "holds") == (v.p < 0.025) and (v.verdict == "fails") == (v.p > 0.975)


def test_without_a_lead_to_reach_it_is_scipy_s_paired_test():
    a, b = np.array([24.9, 29.5, 18.1, 30.7, 23.6]), np.array([18.1, 24.4, 15.2, 21.9, 19.0])
    assert judge(a, b).p == pytest.approx(stats.ttest_rel(a, b, alternative="greater").pvalue)
    assert judge(b, a).p == pytest.approx(1 - judge(a, b).p) and judge(b, a).verdict == "fails"


@hyp(max_examples=200, deadline=None)
@given(paired, st.sampled_from([1.0, 2.0, 20.0]))
def test_equivalence_is_two_one_sided_tests(pair, within):
    d = spread(pair)
    v = judge(*pair, within=within)
    above = stats.ttest_1samp(d, -within, alternative="greater").pvalue
    below = stats.ttest_1samp(d, within, alternative="less").pvalue
    assert v.p == pytest.approx(max(above, below), abs=1e-9)
    low, high = stats.ttest_rel(*pair).confidence_interval(0.95)
    assume(min(abs(abs(low) - within), abs(abs(high) - within)) > 1e-6)
    inside, outside = -within < low and high < within, low > within or high < -within
    assert v.verdict == ("holds" if inside else "fails" if outside else "undecided")
    assert (v.verdict == "holds") == (v.p < 0.025) and (v.verdict == "fails") == (v.p > 0.975)
    assert judge(*pair[::-1], within=within).verdict == v.verdict  # it has no direction


@pytest.mark.parametrize(
    "gap, options, verdict, p",
    [
        (3, {}, "holds", 0),
        (-3, {}, "fails", 1),
        (0, {}, "undecided", 0.5),
        (10, dict(least=8), "holds", 0),
        (8, dict(least=8), "undecided", 0.5),
        (7, dict(least=8), "fails", 1),
        (0, dict(within=2), "holds", 0),
        (-2, dict(within=2), "undecided", 0.5),
        (2.5, dict(within=2), "fails", 1),
    ],
)
@pytest.mark.parametrize("base", [[50, 50, 50], [61.3, 58.1, 60.7, 59.9]])
def test_seeds_that_agree_exactly_have_the_limit_of_a_small_spread(base, gap, options, verdict, p):
    "No nan, no warning; rounding in the differences decides nothing."
    base = np.array(base)
    with np.errstate(all="raise"):
        v = judge(base + gap, base, **options)
    assert (v.verdict, v.p, v.margin) == (verdict, p, 0) and v.gap == pytest.approx(gap)
    if p != 0.5:  # a little spread gives nearly the same
        wiggle = 1e-4 * np.array([1, -1, 0, 0][: len(base)])
        near = judge(base + gap + wiggle, base, **options)
        assert near.verdict == verdict and near.p == pytest.approx(p, abs=1e-4)


@hyp(max_examples=100, deadline=None)
@given(st.lists(st.tuples(accuracy, accuracy), min_size=1, max_size=2), st.sampled_from([None, 3.0]))
def test_fewer_than_three_seeds_only_lean(pairs, within):
    a, b = np.array(pairs).T
    v = judge(a, b, within)
    for_it = round(within - abs(v.gap) if within else v.gap, 9)
    expected = "leans for" if for_it > 0 else "leans against" if for_it < 0 else "leans neither way"
    assert v.verdict == expected and v.gap == pytest.approx(np.mean(a - b))
    assert np.isnan(v.margin) and np.isnan(v.p)
    assert str(v) == f"{expected} ({v.gap:+.1f})"


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((3, 20), (3, 30)), ((2, 3, 4), (2, 3, 4)), ((0,), (0,))])
def test_numbers_must_be_paired(shapes):
    with pytest.raises(ValueError, match="one of each row for every seed"):
        judge(*map(np.zeros, shapes))


@hyp(max_examples=60, deadline=None)
@given(st.integers(3, 6), st.integers(2, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 2.0]))
def test_on_a_test_that_all_seeds_share_the_videos_add_their_error(seeds, videos, draw, least):
    "By loops, from the formula; and the interval contains that of the seeds alone."
    rng = np.random.default_rng(draw)
    better, worse = 100.0 * (rng.random((2, seeds, videos)) < 0.6)
    v, flat = judge(better, worse, least=least), judge(better.mean(1), worse.mean(1), least=least)
    over_seeds = [sum(better[s] - worse[s]) / videos for s in range(seeds)]
    over_videos = [sum(better[:, i] - worse[:, i]) / seeds for i in range(videos)]
    mean = sum(over_seeds) / seeds
    error = 0.0
    for part in (over_seeds, over_videos):
        error += sum((x - mean) ** 2 for x in part) / (len(part) - 1) / len(part)
    margin = stats.t.ppf(0.975, seeds - 1) * error**0.5
    assert v.gap == pytest.approx(mean) and v.margin == pytest.approx(margin) and v.n == seeds
    assert v.margin >= flat.margin - 1e-9
    if v.verdict != "undecided":
        assert v.verdict == flat.verdict
    if error:
        assert v.p == pytest.approx(stats.t.sf((mean - least) / error**0.5, seeds - 1), abs=1e-9)


def test_seeds_that_agree_on_a_small_test_prove_nothing():
    right = np.tile(100.0 * (np.arange(30) < 16), (3, 1))
    fewer = right * (np.arange(30) >= 2)
    assert judge(fewer.mean(1), right.mean(1)).verdict == "fails"  # of seeds alone
    assert judge(fewer, right).verdict == "undecided"
    assert judge(np.tile(fewer, 100), np.tile(right, 100)).verdict == "fails"  # 3000 videos do


def test_a_verdict_reads_as_a_sentence_s_end():
    a = np.array([24.9, 29.5, 18.1, 30.7, 23.6])
    shown = [str(judge(a + d, a)) for d in (5.0, np.array([1, -1, 2, 0.5, 0.3]), -5.0)]
    assert shown[0] == "holds (+5.0 ± 0.0, p < 0.001)" and shown[2] == "fails (-5.0 ± 0.0, p > 0.999)"
    assert re.fullmatch(r"undecided \(\+0\.6 ± 1\.4, p = 0\.1\d\d\)", shown[1])
    assert str(claims.Verdict("not run")) == "not run" and claims.Verdict("not run").size == "—"


# ---------------------------------------------------------------- by simulation


def rates(gap, seeds, worlds=4000, sd=3.0, **options) -> tuple:
    "How often a claim holds and fails when rows truly differ by a gap."
    rng = np.random.default_rng(seeds)
    common = rng.normal(40, 5, (worlds, seeds))  # easy and hard worlds, for both rows alike
    a, b = (common + rng.normal(0, sd / np.sqrt(2), common.shape) for _ in range(2))
    found = [judge(x + gap, y, **options).verdict for x, y in zip(a, b)]
    return found.count("holds") / worlds, found.count("fails") / worlds


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("gap, options", [(0, {}), (8, dict(least=8.0))])
def test_chance_alone_decides_two_and_a_half_per_cent_each_way(seeds, gap, options):
    "4,000 worlds at the bound: the standard error of a rate of 2.5 % is 0.25 %."
    for rate in rates(gap, seeds, **options):
        assert 0.0165 < rate < 0.0335, (seeds, rate)


def test_chance_alone_decides_equivalence_as_rarely():
    holds, fails = rates(2, 5, sd=0.8, within=2.0)
    assert 0.0165 < holds < 0.0335 and 0.0165 < fails < 0.0335


def test_true_differences_are_found():
    assert rates(10, 5)[0] > 0.95 and rates(-10, 5)[1] > 0.95
    assert rates(0, 5, sd=0.5, within=2.0)[0] > 0.95 and rates(10, 5, within=2.0)[1] > 0.9
    assert rates(10, 3)[0] < rates(10, 5)[0]  # three seeds decide less


# ---------------------------------------------------------------- claims of several inequalities


@functools.cache
def plan_of(seeds):
    "A plan of a table of four rows; it looks into the store, which takes seconds."
    return tables.table("fame", 3).plan("demo", seeds=seeds)


def made_up(seeds, numbers) -> Outcome:
    "An Outcome with chosen accuracies [seeds]: numbers(row, test)."
    plan = plan_of(seeds)
    results = {}
    for (row, column, seed), recipe in plan.cells.items():
        metrics = {}
        for test, _ in recipe.tests:
            metrics[test] = dict(top1=float(numbers(row, test)[plan.seeds.index(seed)]), n=1500, failed=[])
        meta = dict(commit="abc1234567", device="a lamp")
        results[row, column, seed] = runs.Result(recipe, "nowhere", metrics, meta)
    return Outcome(plan, results)


@pytest.fixture
def outcome(tmp_path, monkeypatch):
    "Five seeds; on the unbiased test FAME is ahead by far, on the biased one hardly."
    monkeypatch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MVNB_RUN_PUBLISH", "yes")  # to where the scoreboard looks
    rng = np.random.default_rng(3)
    means = {"1.0": 20, "0.7": 26, "0.5": 35, "0.3": 34}
    drawn = {}
    for row, mean in means.items():
        drawn[row, "unbiased"] = mean + rng.normal(0, 1, 5)
        drawn[row, "biased"] = 60 + mean / 20 + rng.normal(0, 3, 5)
    return made_up(5, lambda row, test: drawn[row, test])


@pytest.mark.parametrize("test", ["biased", "unbiased"])
@pytest.mark.parametrize("worse", [("1.0",), ("1.0", "0.7"), ("0.3",), ("1.0", "0.7", "0.3")])
@pytest.mark.parametrize("options", [{}, dict(least=5.0), dict(within=2.0)])
def test_the_weakest_inequality_speaks_for_a_claim(outcome, test, worse, options):
    "An intersection-union test: the largest p-value, and gap and margin of the same inequality."
    claim = Claim("x", "UCF101", ("0.5",), worse, **options)
    v = outcome.verdict(claim, test)
    each = []
    for row in worse:
        d = outcome.values("0.5", "UCF101", test) - outcome.values(row, "UCF101", test)
        bounds = [(options.get("least", 0), "greater")]
        if "within" in options:
            bounds = [(-2, "greater"), (2, "less")]
        p = max(stats.ttest_1samp(d, bound, alternative=side).pvalue for bound, side in bounds)
        each.append((p, d.mean()))
    p, gap = max(each)
    assert v.p == pytest.approx(p, abs=1e-12) and v.gap == pytest.approx(gap)
    assert v.verdict == ("holds" if p < 0.025 else "fails" if p > 0.975 else "undecided")


def test_without_p_values_the_smallest_gap_speaks():
    numbers = {"1.0": [20], "0.7": [36], "0.5": [35], "0.3": [34]}
    out = made_up(1, lambda row, test: numbers[row])
    v = out.verdict(Claim("x", "UCF101", ("0.5",), ("1.0", "0.7", "0.3")), "biased")
    assert str(v) == "leans against (-1.0)"
    lines = out.claim_lines
    assert set(lines["verdict"]) <= {"leans for", "leans against", "leans neither way"}
    assert set(lines["p"]) == set(lines["margin"]) == {""} and set(lines["n"]) == {"1"}
    assert "too few to decide" in str(out.claims) and "holds" not in str(out.claims.frame)


def test_a_claim_without_all_its_runs_is_not_run(outcome):
    del outcome.results["0.7", "UCF101", 3]
    assert outcome.verdict(Claim("x", "UCF101", ("0.5",), ("0.7",)), "biased").verdict == "not run"
    assert outcome.verdict(Claim("x", "UCF101", ("0.5",), ("1.0",)), "biased").verdict != "not run"


# ---------------------------------------------------------------- the expected test


def test_a_claim_says_where_it_should_show_and_why():
    with pytest.raises(ValueError, match="both shows= and why="):
        Claim("x", "a", ("p",), ("q",), shows="biased")
    with pytest.raises(ValueError, match="both shows= and why="):
        Claim("x", "a", ("p",), ("q",), why="the scene")
    d = tables.table("fame", 3).definition
    assert d.expects(d.claims[0]) == ("unbiased", tables.BY_SCENE)
    assert d.expects(Claim("x", "a", ("p",), ("q",), shows="biased", why="so")) == ("biased", "so")
    for every in (tables.definitions(), figures.definitions()):
        assert all(d.shows in ("biased", "unbiased") and d.why for d in every)


def test_the_biased_test_is_named_where_a_paper_explains_its_claim_by_the_scene():
    named = {c.text for d in tables.definitions() for c in d.claims if d.expects(c)[0] == "biased"}
    assert named == {
        "Grid beats FAME",
        *(f"ASCNet is slightly ahead of FAME at R@{k}" for k in (5, 10, 20, 50)),
    }
    drawn = {(d.paper, d.number) for d in figures.definitions() if d.shows == "biased"}
    assert drawn == {("mac", "3"), ("mac", "s3")}


def test_thresholds_are_stated_with_whose_they_are():
    for d in tables.definitions():
        for claim in d.claims:
            bound = claim.within if claim.within is not None else claim.least
            if not bound:
                continue
            assert re.search(rf"\b{abs(bound):g}\b", claim.text), claim.text
            assert claim.text.endswith(("(our threshold)", "(the paper's threshold)")), claim.text


def test_a_text_with_two_origins_is_told_with_its_column():
    said = [("one", "A", "text"), ("one", "B", "table"), ("two", "B", "table"), ("two", "A", "table")]
    made = tuple(tables.Claim(text, column, ("x",), ("y",), by=by) for text, column, by in said)
    assert claims._said_by(made, "table") == ["one (B)", "two"]


def test_the_only_test_of_real_data_is_the_expected_one():
    assert [claims.is_expected(t, "unbiased") for t in ("biased", "unbiased", "test")] == ["no", "yes", "yes"]
    assert claims.is_expected("biased", "biased") == "yes"


# ---------------------------------------------------------------- files, scoreboard, summary


def test_lines_say_all_that_a_verdict_rests_on(outcome):
    lines = outcome.claim_lines
    assert tuple(lines) == claims.COLUMNS
    assert (lines["expected"] == np.where(lines["test"] == "unbiased", "yes", "no")).all()
    for line in lines.itertuples():
        claim = next(
            c for c in outcome.definition.claims if (c.text, c.place) == (line.claim, line.published_on)
        )
        v = outcome.verdict(claim, line.test)
        assert (line.verdict, line.gap, line.margin) == (v.verdict, f"{v.gap:.2f}", f"{v.margin:.2f}")
        assert float(line.p) == pytest.approx(v.p, rel=0.01) and line.n == "5"
        assert line.inequalities == str(len(claim.pairs)) and line.seeds == "0 1 2 3 4"
        assert claims.said(line) == str(v)


def test_the_scoreboard_has_p_values_and_the_expected_test(outcome):
    outcome.claims.save()
    board = claims.scoreboard("demo")
    own = board[(board["paper"] == "fame") & (board["table"] == "3")]
    assert own["unbiased test"].str.fullmatch(r"\w+ \([+-][\d.]+ ± [\d.]+, p [<=>] [\d.]+\)").all()
    assert set(own["expected on"]) == {"unbiased test"} and set(own["seeds"]) == {"0 1 2 3 4"}
    for seeds, run in ((5, {"puppets-u", "puppets-h"}), (3, {"not run"})):
        board = claims.scoreboard("demo", seeds=seeds)
        found = set(board[(board["paper"] == "fame") & (board["table"] == "3")]["measured on"])
        assert found == run


def test_drawn_figures_are_on_the_scoreboard(outcome, tmp_path):
    d = figures.figure("mac", 3).definition
    line = dict.fromkeys(claims.COLUMNS, "") | dict(
        paper="mac", table="figure 3", claim="still", shows="biased"
    )
    line |= dict(by="the paper's text", inequalities="1", profile="demo", measured_on="puppets-u", n="5")
    line |= dict(gap="4.00", margin="1.00", p="0.0004", seeds="0 1 2 3 4")
    lines = [
        line | dict(test=test, expected=expected, verdict=verdict)
        for test, expected, verdict in (("biased", "yes", "holds"), ("unbiased", "no", "undecided"))
    ]
    folder = tmp_path / "outputs" / "demo"
    folder.mkdir(parents=True)
    pd.DataFrame(lines).to_csv(folder / f"{d.notebook}.claims.csv", index=False)
    board = claims.scoreboard("demo").set_index("claim")
    assert board.loc["still", "biased test"] == "holds (+4.0 ± 1.0, p < 0.001)"
    assert board.loc["still", "expected on"] == "biased test"
    counted = claims.summary("demo").set_index(["paper", "by", "on"])
    text = counted.sort_index().loc["mac", "the paper's text"]
    assert text.loc["expected test", ["judged", "holds", "holds after Holm"]].tolist() == [1, 1, 1]
    assert text.loc["other test", ["judged", "undecided"]].tolist() == [1, 1]


def test_a_file_from_before_is_left_out_with_a_warning(outcome):
    path = outcome.claims.save()
    old = pd.read_csv(path, dtype=str).drop(columns=["shows", "inequalities", "expected", "p", "n"])
    old.to_csv(path, index=False)
    with pytest.warns(UserWarning, match=f"{path.name} was not judged over seeds"):
        board = claims.scoreboard("demo")
    assert set(board["measured on"]) == {"not run"}
    old.drop(columns="commit").to_csv(path, index=False)
    with pytest.raises(ValueError, match="commit"):
        claims.scoreboard("demo")


def lines_of(*rows) -> pd.DataFrame:
    "Lines of a board from (paper, by, verdict, p, inequalities, measured on, expected)."
    out = []
    for k, (paper, by, verdict, p, inequalities, measured, expected) in enumerate(rows):
        line = dict.fromkeys(claims.COLUMNS, "") | dict(paper=paper, claim=f"c{k}", by=tables.SAID_BY[by])
        line |= dict(verdict=verdict, p=str(p), inequalities=str(inequalities))
        out.append(line | dict(measured_on=measured, expected=expected))
    return pd.DataFrame(out)


def test_a_summary_counts_apart_what_is_not_alike():
    u, e, o = "puppets-u", "yes", "no"
    lines = lines_of(
        ("a", "text", "holds", 0.004, 1, u, e),  # × 4 = 0.016: still holds
        ("a", "text", "holds", 0.02, 3, u, e),  # × 3 = 0.06: not any more
        ("a", "text", "fails", 0.99, 2, u, e),
        ("a", "text", "undecided", 0.4, 1, "puppets-h", e),
        ("a", "text", "leans for", "", 1, u, e),
        ("a", "text", "leans against", "", 1, u, e),
        ("a", "text", "not run", "", 9, "", ""),
        ("a", "text", "holds", 0.001, 1, u, o),
        ("a", "text", "holds", 0.01, 1, "ucf101", e),
        ("a", "ours", "holds", 0.0001, 1, u, e),
        ("b", "table", "not judged", "", 1, u, e),
    )
    frame = claims.summed(lines).set_index(["paper", "by", "on"])
    text = "the paper's text"
    assert list(frame.index) == [
        ("a", text, "expected test"),
        ("a", text, "other test"),
        ("a", text, "real videos"),
        ("a", "ours", "expected test"),
        ("b", "read from its table", "expected test"),
    ]
    first = frame.loc["a", text, "expected test"]
    counted = ["judged", "holds", "fails", "undecided", "leaning", "not judged", "not run"]
    assert first[counted].tolist() == [4, 2, 1, 1, 2, 0, 1]
    assert first[["holds by chance", "fails by chance"]].tolist() == [0.1, 0.18]  # 4 claims, 7 inequalities
    assert frame["holds after Holm"].tolist() == [1, "", 1, "", ""]
    assert frame.loc["b"].iloc[0][counted].tolist() == [0, 0, 0, 0, 0, 1, 0]


def test_every_line_of_a_board_is_counted_once(outcome):
    outcome.claims.save()
    lines, frame = claims.board_lines("demo"), claims.summary("demo")
    count = frame[["judged", "leaning", "not judged", "not run"]].sum()
    assert count.sum() == len(lines) and count["not run"] == (lines["verdict"] == "not run").sum()
    assert (frame["judged"] == frame[["holds", "fails", "undecided"]].sum(axis=1)).all()


# ---------------------------------------------------------------- Holm


@hyp(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12), st.sampled_from([0.025, 0.05, 0.2]))
def test_holm_rejects_what_its_steps_reject(p, level):
    "Step down: while the smallest p-value left is below level / (number left), it is rejected."
    left = sorted(range(len(p)), key=lambda i: p[i])
    rejected = set()
    while left and p[left[0]] * len(left) < level:
        rejected.add(left.pop(0))
    corrected = claims.holm(p)
    assert {i for i in range(len(p)) if corrected[i] < level} == rejected
    assert (corrected >= np.array(p)).all() and (corrected <= 1).all()


def test_holm_by_hand():
    assert claims.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert claims.holm([0.6, 0.7]) == pytest.approx([1, 1]) and len(claims.holm([])) == 0


def test_what_does_not_survive_the_correction_of_its_page_is_narrow():
    "Holm's procedure by hand, two-sided, page by page; real videos are a page of their own."
    rows = [  # table, measured on, verdict, p, narrow
        ("1", "puppets-u", "holds", "0.004", False),  # × 4 = 0.016
        ("1", "puppets-h", "fails", "0.99", True),  # 0.01 × 3 = 0.03
        ("1", "puppets-h", "holds", "0.02", True),
        ("1", "puppets-u", "undecided", "0.3", False),
        ("1", "", "not run", "", False),
        ("1", "puppets-u", "leans for", "", False),
        ("1", "ucf101", "holds", "0.02", False),  # alone on its page
        ("2", "puppets-u", "fails", "0.98", False),
    ]
    about = dict(paper="a", claim="c", published_on="p", seeds="0 1 2", shows="unbiased", test="unbiased")
    columns = ["table", "measured_on", "verdict", "p"]
    lines = pd.DataFrame([row[:4] for row in rows], columns=columns).assign(gap="1", margin="0.5", **about)
    assert claims.narrow(lines).tolist() == [row[4] for row in rows]
    lines["claim"] = list("abcdefgh")
    shown = claims.wide(lines, dict(claim="claim")).set_index("claim")["unbiased test"]
    assert shown["a"].startswith("holds (") and shown["b"].startswith("fails narrowly (")
    assert claims.narrow(lines[::-1]).tolist() == [row[4] for row in rows][::-1]


def test_of_many_claims_without_truth_rarely_any_holds_after_holm():
    rng = np.random.default_rng(0)
    any_before, any_after = 0, 0
    for family in rng.normal(0, 3, (1500, 20, 5)):
        p = np.array([claims.p_value(d) for d in family])
        any_before += (p < claims.LEVEL).any()
        any_after += (claims.holm(p) < claims.LEVEL).any()
    assert any_before / 1500 > 0.3  # 1 - 0.975^20 = 40 %
    assert 0.01 < any_after / 1500 < 0.04
