"The batch: graph, costs, markers, device indices, and Snakemake for real: killed, restarted, failing."

import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mvnb import batch, cli, pages, recipes, runs, settings, tables

ROOT = Path(__file__).resolve().parent.parent
WITH_SNAKEMAKE = pytest.mark.skipif(sys.version_info < (3, 11), reason="Snakemake 9 needs Python 3.11")


@pytest.fixture
def place(tmp_path, monkeypatch, puppets_root):
    "A private store, outputs folder and processor."
    for key, value in dict(
        PATHS_RUNS=tmp_path / "runs",
        PATHS_OUTPUTS=tmp_path / "outputs",
        PATHS_CACHE=tmp_path / "cache",
        DATA_PUPPETS=puppets_root,
        ROOT=ROOT,
        RUN_DEVICE="cpu",
    ).items():
        monkeypatch.setenv(f"MVNB_{key}", str(value))
    return tmp_path


def instantly(recipe, job):
    "Stands in for training: results of the right form at once."
    rng = random.Random(recipe.hash)
    if recipe.kind == "pretrain":
        (job.folder / "weights.safetensors").write_text(recipe.hash)
        return {"loss": rng.random()}, {}
    metrics = {}
    (job.folder / "predictions").mkdir()
    for name, data in recipe.tests:
        index = data.load()
        n, classes = len(index), len(set(index.labels.tolist()))
        ranks = [rng.randrange(classes) for _ in range(n)]
        with open(job.folder / "predictions" / f"{name}.csv", "w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["path", "label", "ok", "predicted", "probability", "rank"])
            for path, label, rank in zip(index.paths, index.labels.tolist(), ranks):
                out.writerow([path, label, 1, 0, 0.5, rank])
        metrics[name] = dict(
            top1=100 * ranks.count(0) / n, top5=100.0, n=n, failed=[], confusion=[[0] * classes] * classes
        )
    return metrics, {}


@pytest.fixture
def instant(monkeypatch):
    for kind in runs.WORK:
        monkeypatch.setitem(runs.WORK, kind, instantly)


def graph_of(*recipe_list, pages=(), **options):
    "A batch of runs without tables."
    known = {r.hash: r for one in recipe_list for r in recipes.chain(one)}
    return batch.Graph(
        "smoke",
        (0,),
        "",
        known,
        {p.stem: p for p in pages},
        {},
        options=dict(device="cpu", devices=[], gpus=0, nproc=1, threads=1) | options,
    )


SMOKE = recipes.profile("smoke")


def pretraining(seed=0, steps=2, **params):
    r = recipes.pretraining(SMOKE, "moco", "puppets-u", "r2plus1d", seed, **params)
    return replace(r, schedule=replace(r.schedule, max_steps=steps, epochs=10_000))


def finetuning(parent):
    return recipes.finetuning(
        replace(SMOKE, finetune=replace(SMOKE.finetune, max_steps=1)), "puppets-u", parent
    )


# ---------------------------------------------------------------- the graph


def test_the_graph_is_the_union_of_the_tables(place):
    graph = batch.gather("smoke", "fame_table[35]*", seeds=2)
    plans = [tables.table(d.paper, d.number).plan("smoke", 2) for _, d, _ in batch.chosen("fame_table[35]*")]
    assert len(plans) == 2 and set(graph.runs) == {r.hash for p in plans for r in p.runs}
    assert len(graph.runs) < sum(len(p.runs) for p in plans)  # some are shared
    order = list(graph.runs)
    assert all(order.index(r.parent.hash) < order.index(h) for h, r in graph.runs.items() if r.parent)
    assert {s: set(p.runs) for s, p in graph.pages.items()} == {
        p.stem: {r.hash for r in p.runs} for p in plans
    }
    shown = batch.listing(graph)
    for h, names in zip(shown["run"], shown["for"]):
        assert len(names.split(", ")) == sum(h in {r.hash for r in p.runs} for p in plans)
    assert f"they would be {sum(len(p.runs) for p in plans)}" in " ".join(batch.summary(graph))


def test_every_table_and_figure_is_in_the_registry(place):
    written = [p.stem for what in ("table", "figure") for p in (ROOT / "nbs").rglob(f"*_{what}[0-9]*.ipynb")]
    assert {d.notebook for _, d, _ in batch.chosen()} == set(written)
    assert {d.number for _, d, _ in batch.chosen(paper="FAME", number="3")} == {"3"}
    for _, d, _ in batch.registry():
        assert pages.notebook_of(d).name == f"{d.notebook}.ipynb"


@pytest.mark.parametrize(
    "asked,message",
    [
        (dict(only="fame_tabel*"), "fame_table3_foreground_ratio"),
        (dict(paper="fane"), "no notebook fits paper 'fane'"),
        (dict(paper="fame", number=99), "there is no table 99"),
        (dict(profile="dmeo"), "use one of smoke, demo, paper"),
        (dict(seeds="x"), "seeds is 'x'"),
        (dict(data="ucf11", only="fame_table3*"), "did you mean 'ucf101'"),
    ],
)
def test_unknown_choices_are_named(place, asked, message):
    with pytest.raises(ValueError, match=message):
        batch.gather(**{"profile": "smoke"} | asked)


def test_what_cannot_run_here_is_left_out_and_told(place, monkeypatch):
    real = tables.Table.plan

    def plan(self, *a, **kw):
        if self.definition.number == "5":
            raise ValueError("its videos are elsewhere")
        return real(self, *a, **kw)

    monkeypatch.setattr(tables.Table, "plan", plan)
    graph = batch.gather("smoke", "fame_table[35]*")
    assert [p.number for p in graph.pages.values()] == ["3"] and list(graph.blocked.values()) == [
        "its videos are elsewhere"
    ]
    text, well = batch.report(graph)
    assert not well and "was left out: its videos are elsewhere" in text
    with pytest.raises(ValueError, match="elsewhere"):
        batch.gather("smoke", "fame_table5*")


def test_a_plan_shows_what_a_batch_leaves_out(place, monkeypatch, capsys):
    "The paper's own videos are not here: what they would cost can be asked, and nothing starts."
    load = recipes.Data.load

    def away(data):
        if data.made:
            return load(data)
        raise ValueError(f"{data.name} is on another machine")

    monkeypatch.setattr(recipes.Data, "load", away)
    graph = batch.gather("paper", "fame_table3*")
    assert (
        len(graph.runs) == 12
        and len(batch.costs(graph)) == 2
        and "another machine" in " ".join(batch.summary(graph))
    )
    with pytest.raises(ValueError, match="another machine"):
        batch.runnable(graph)
    assert (
        cli.main(["batch", "--profile", "paper", "--only", "fame_table3*"]) == 1
        and "another machine" in capsys.readouterr().err
    )
    both = batch.gather("smoke", "fame_table[35]*")
    one = batch.runnable(replace(both, blocked={"fame_table5_branches": "no"}))
    assert list(one.pages) == ["fame_table3_foreground_ratio"] and set(one.runs) == set(
        one.pages["fame_table3_foreground_ratio"].runs
    ) < set(both.runs)


def test_a_graph_comes_back_from_paper(place, monkeypatch):
    graph = batch.gather("smoke", "fame_table3*", seeds="1,4")
    path = batch.save(graph)
    monkeypatch.setenv("MVNB_PATHS_RUNS", "/somewhere/else")
    again = batch.load(path)
    assert (again.runs, again.pages, again.seeds) == (
        graph.runs,
        graph.pages,
        (1, 4),
    ) and settings.runs() == place / "runs"
    content = json.loads(path.read_text())
    next(iter(content["runs"].values()))["seed"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="another hash"):
        batch.load(path)


def test_the_longest_path_by_brute_force(place):
    graph = batch.gather("smoke", "fame_table3*")
    rng = random.Random(0)
    cost = {h: rng.random() for h in graph.runs}
    assert batch.longest(graph, cost) == pytest.approx(
        max(sum(cost[r.hash] for r in recipes.chain(r)) for r in graph.runs.values())
    )
    assert batch.longest(graph, {}) == 0


def test_costs_use_what_was_measured_on_each_device(place, instant):
    graph = graph_of(finetuning(pretraining()), finetuning(pretraining(1)))
    assert list(batch.costs(graph)["device"])[1:] == ["a GPU"]
    runs.ensure(pretraining(2), "cpu", 0)
    record = runs.stored()[0]
    record["meta"] |= dict(device="NVIDIA Test", seconds=record["meta"]["gmac"] / 0.001)  # 0.001 GMAC/s
    frame = batch.costs(graph, [record]).set_index("device")
    pre = runs.estimate(pretraining(), past=[record], words="NVIDIA Test")
    assert (
        pre == pytest.approx(runs._gmac(pretraining(), {}) / 0.001)
        and pre.basis == "measured in 1 stored run"
    )
    assert (
        frame.index.tolist() == [runs.describe_device("cpu"), "NVIDIA Test"]
        and "guessed" in frame.loc["NVIDIA Test", "from"]
    )  # fine-tuning was not measured


# ---------------------------------------------------------------- the runs of one table at once


def in_turn(bad=None):
    "Stands in for `runs.together`, in this process."

    def together(todo, jobs, device, workers, known):
        for recipe in todo:
            if bad is None or bad not in recipes.chain(recipe):
                runs.ensure(recipe, device, 0, False, known)
                yield recipe, ""
            elif recipe == bad:
                yield recipe, "ValueError: the lamp is out"

    return together


def test_a_line_for_every_run_with_count_and_time_left(place, instant, monkeypatch, capsys):
    monkeypatch.setattr(runs, "together", in_turn())
    plan = tables.table("fame", 3).plan("smoke", device="cpu")
    runs.ensure(plan.runs[0], "cpu", 0)
    done = tables.compute(plan.refresh(), "cpu", 0, jobs=2)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "11 runs, up to 2 at once" and len(done) == 8 and not plan.refresh().todo
    numbered = [line for line in said if "/11  " in line]
    assert [int(line.split("/")[0]) for line in numbered] == list(range(1, 12))
    assert all("left" in line for line in numbered[:-1]) and "left" not in numbered[-1]
    assert numbered[-1].endswith(str(plan.runs[-1]))
    tables.compute(plan, "cpu", 0, jobs=2)
    assert capsys.readouterr().out == "12 of 12 runs were in the store\n"


def test_a_failing_run_of_several_is_named_when_the_others_are_done(place, instant, monkeypatch, capsys):
    plan = tables.table("fame", 3).plan("smoke", device="cpu")
    bad = plan.runs[0]
    monkeypatch.setattr(runs, "together", in_turn(bad))
    with pytest.raises(runs.Failed, match="the lamp is out") as raised:
        tables.compute(plan, "cpu", 0, jobs=2)
    assert str(bad) in str(raised.value) and f"{bad}: failed, ValueError" in capsys.readouterr().out
    left = {r.hash for r in plan.refresh().todo}
    assert left == {r.hash for r in plan.runs if bad in recipes.chain(r)} and len(left) == 3


def test_a_batch_says_how_long_several_at_once_take(place, monkeypatch):
    monkeypatch.setenv("MVNB_RUN_JOBS", "2")
    frame = batch.costs(graph_of(finetuning(pretraining()), finetuning(pretraining(1))))
    assert frame["several at once"][0].endswith("(2 at once)") and frame["several at once"][1] == "—"


# ---------------------------------------------------------------- markers and the store


def test_markers_follow_the_store(place, instant):
    tune, other = finetuning(pretraining()), pretraining(1)
    graph = graph_of(tune, other)
    names = [tune.parent.hash, tune.hash, other.hash]
    assert batch.settle(graph) == names
    runs.ensure(tune, "cpu", 0)  # by another command
    assert batch.settle(graph) == [other.hash] and batch.marker(graph, tune.hash).exists()
    before = batch.marker(graph, tune.hash).stat().st_mtime_ns
    assert batch.settle(graph) == [other.hash] and batch.marker(graph, tune.hash).stat().st_mtime_ns == before
    settings.save_json(batch.marker(graph, other.hash), {"checksum": "forged"})
    assert (
        batch.settle(graph) == [other.hash] and not batch.marker(graph, other.hash).exists()
    )  # a marker proves nothing


@pytest.mark.parametrize("damage", ["cut", "gone", "no result"])
def test_a_damaged_parent_takes_its_children_along(place, instant, damage):
    tune, other = finetuning(pretraining()), finetuning(pretraining(1))
    graph = graph_of(tune, other)
    for r in (tune, other):
        runs.ensure(r, "cpu", 0)
    assert batch.settle(graph) == []
    folder = place / "runs" / tune.parent.hash
    if damage == "cut":
        (folder / "weights.safetensors").write_text("")
    if damage == "gone":
        shutil.rmtree(folder)
    if damage == "no result":
        (folder / "result.json").unlink()
    assert batch.settle(graph) == [tune.parent.hash, tune.hash]
    runs.ensure(tune.parent, "cpu", 0)
    assert batch.settle(graph) == []  # the same weights came out: the fine-tuning still holds


def test_a_page_holds_as_long_as_everything_it_shows(place, instant, monkeypatch):
    graph = batch.gather("smoke", "fame_table3*")
    ((stem, page),) = graph.pages.items()
    (library := place / "library.py").write_text("as it was")
    monkeypatch.setattr(batch, "_library", lambda: [library])
    for r in graph.runs.values():
        runs.ensure(r, "cpu", 0)
    assert batch.settle(graph) == [stem]
    shown = place / "outputs" / "mine" / "smoke" / f"{stem}.ipynb"

    def done():
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.write_text("a page")
        batch.finish(graph, stem, batch.marker(graph, stem))
        assert batch.settle(graph) == []

    done()
    shown.write_text("edited")
    assert batch.settle(graph) == [stem]
    done()
    shown.unlink()
    assert batch.settle(graph) == [stem]
    done()
    assert batch.settle(batch.gather("smoke", "fame_table3*", seeds="0,")) == []
    library.write_text("changed")
    assert batch.settle(graph) == [stem]
    done()
    last = next(reversed(graph.runs))
    shutil.rmtree(place / "runs" / last)
    assert batch.settle(graph) == [last, stem]


# ---------------------------------------------------------------- devices


def _hold(folder, tokens, count, seconds, queue):
    os.environ["TMPDIR"] = str(folder)
    import tempfile

    tempfile.tempdir = None
    with batch.devices(tokens, count) as mine:
        began = time.monotonic()
        queue.put((mine, "began", began, os.getpid()))
        time.sleep(seconds)
        queue.put((mine, "ended", time.monotonic(), os.getpid()))


def test_no_two_jobs_hold_one_index(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    counts = [1, 2, 1, 1, 2, 1, 1]
    workers = [
        context.Process(target=_hold, args=(tmp_path, ["0", "1", "2"], n, 0.1 + 0.03 * n, queue))
        for n in counts
    ]
    for w in workers:
        w.start()
    told = [queue.get(timeout=60) for _ in range(2 * len(workers))]
    for w in workers:
        w.join(20)
    spans = {}
    for mine, what, when, pid in told:
        spans.setdefault(pid, {"mine": mine})[what] = when
    assert sorted(len(s["mine"]) for s in spans.values()) == sorted(counts)
    overlaps(spans.values())


def overlaps(spans):
    for a in spans:
        for b in spans:
            if a is not b and set(a["mine"]) & set(b["mine"]):
                assert a["ended"] <= b["began"] or b["ended"] <= a["began"], (a, b)


def test_a_killed_job_gives_its_index_back(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    first = context.Process(target=_hold, args=(tmp_path, ["7"], 1, 60, queue))
    first.start()
    assert queue.get(timeout=30)[0] == ["7"]
    os.kill(first.pid, signal.SIGKILL)
    first.join(20)
    queue = context.Queue()  # the first one may have died holding the other's lock
    second = context.Process(target=_hold, args=(tmp_path, ["7"], 1, 0, queue))
    second.start()
    assert queue.get(timeout=30)[0] == ["7"]
    second.join(20)


def test_what_a_job_asks_for(place, monkeypatch):
    assert batch.resources(device="cpu", cores=4) == dict(
        device="cpu", devices=[], gpus=0, nproc=1, threads=1
    )
    assert (
        batch.resources("slurm", device="cuda")["gpus"] == 1
        and batch.resources("slurm", device="cpu")["gpus"] == 0
    )
    assert batch.resources("slurm", device="cuda", nproc=4)["gpus"] == 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert batch.resources(device="cpu", gpus=2, cores=8) == dict(
        device="cpu", devices=["3", "5"], gpus=1, nproc=1, threads=4
    )
    assert batch.resources(device="cpu", gpus=2, cores=8, nproc=2)["threads"] == 8
    for asked, message in (
        (dict(gpus=3), "3 GPUs were asked for, and there are 2"),
        (dict(gpus=2, nproc=3), "3 processes per run"),
    ):
        with pytest.raises(ValueError, match=message):
            batch.resources(device="cpu", **asked)


# ---------------------------------------------------------------- notes and the report


def test_the_report_tells_how_every_job_ended(place, instant):
    good, bad, killed, child = pretraining(), pretraining(1), pretraining(2), finetuning(pretraining(1))
    graph = graph_of(good, bad, killed, child)
    runs.ensure(good, "cpu", 0)
    batch.settle(graph)
    began = time.time()
    with pytest.raises(ValueError), batch.noted(graph, bad.hash):
        raise ValueError("the loss is\nnot finite")
    settings.save_json(batch.note(graph, killed.hash), dict(state="running", began=began, pid=1, host="x"))
    text, well = batch.report(graph, began)
    assert not well and text.splitlines()[0] == "1 done, 1 failed, 1 killed, 1 not started of 4 jobs."
    assert f"{bad}: the loss is not finite" in text and f"log: {batch.log(graph, bad.hash)}" in text
    assert (
        f"{killed}: its process was ended from outside" in text
        and f"{child}: not started, since it needs {bad.hash}" in text
    )
    assert batch.outcome(graph, time.time() + 1)[bad.hash] == ("waiting", "")  # an old note is no news


# ---------------------------------------------------------------- Snakemake


def snakemake(graph, *more, on="local", cores=None, timeout=400):
    batch.save(graph)
    done = subprocess.run(
        [*batch.command(graph, on, cores), *more], capture_output=True, text=True, timeout=timeout
    )
    return done.returncode, done.stdout + done.stderr


@WITH_SNAKEMAKE
@pytest.mark.parametrize("on", ["local", "slurm", "kubernetes"])
def test_every_profile_plans_the_jobs_in_order(place, instant, on, monkeypatch):
    if on == "kubernetes":  # the volume that holds the repository
        shutil.copytree(ROOT / "workflow", place / "workflow")
        monkeypatch.setenv("MVNB_ROOT", str(place))
    tune, other = finetuning(pretraining()), finetuning(pretraining(1))
    page = batch.Page("table", "fame", "3", "fame_table3_foreground_ratio", "a_page", (tune.hash, other.hash))
    graph = graph_of(tune, other, pages=[page], gpus=2, devices=["0", "1"] if on == "local" else [])
    runs.ensure(other, "cpu", 0)
    assert batch.settle(graph) == [tune.parent.hash, tune.hash, "a_page"]
    code, text = snakemake(graph, "--dry-run", "--cores", "8", on=on, cores=2)
    assert code == 0, text
    order = [
        next(n for n in ("runs/", "pages/") if n in line) + line.split("/")[-1].removesuffix(".json")
        for line in text.splitlines()
        if line.strip().startswith("output:")
    ]
    assert order == [
        f"runs/{tune.parent.hash}",
        f"runs/{tune.hash}",
        "pages/a_page",
    ]  # only what is not stored, parents first
    assert text.count("gpu=2") == 2  # runs, not the page
    if on != "local":
        assert "threads: 8" in text
    if on == "kubernetes":
        assert (
            "gpu_manufacturer=" in text and "scale=0" in text and "output: outputs/batch/smoke/runs/" in text
        )
    if on == "slurm":
        assert "runtime=1440" in text and "runtime=60" in text


SCRIPT = """
import sys
from mvnb import batch
graph = batch.load(sys.argv[1])
try: sys.exit(0 if batch.start(graph, cores=2) else 1)
except KeyboardInterrupt: sys.exit(130)
"""


@WITH_SNAKEMAKE
def test_when_no_job_can_be_handed_in_the_reason_is_told(place, instant, monkeypatch, capsys):
    "SLURM without SLURM: nothing fails, nothing starts, and the report says why."
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    graph = graph_of(pretraining())
    assert not batch.start(
        graph, "slurm", 1, ("--retries", "0", "--slurm-init-seconds-before-status-checks", "1")
    )
    said = capsys.readouterr().out
    assert (
        "1 not started of 1 jobs" in said
        and "Snakemake stopped by itself" in said
        and str(graph.folder / "logs" / "snakemake.log") in said
    )
    with pytest.raises(
        FileNotFoundError, match="there is no profile 'slrum': use one of kubernetes, local, slurm"
    ):
        batch.command(graph, "slrum")
    with pytest.raises(ValueError, match="has to be inside the repository"):
        batch.command(graph, "kubernetes")


def started(path, **kw):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=ROOT,
        **kw,
    )


def until(condition, process, seconds=400):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@WITH_SNAKEMAKE
@pytest.mark.timeout(900)  # half a minute, unless the machine is busy
def test_killed_restarted_with_a_failing_run(place, monkeypatch):
    "kill -9 of the process group in the middle; the same command again; one run of the graph cannot work."
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # pretended
    long, quick = pretraining(0, steps=100_000), pretraining(1)
    tune, broken = finetuning(quick), pretraining(2, temprature=1.0)
    child = finetuning(broken)
    page = batch.Page("table", "fame", "3", "fame_table3_foreground_ratio", "a_page", (child.hash,))
    first = graph_of(tune, long, devices=["0", "1"], gpus=1)
    path = batch.save(first)
    process = started(path)
    until(
        lambda: (
            batch.marker(first, quick.hash).exists()
            and (place / "runs" / f".work-{long.hash}" / "losses.csv").exists()
        ),
        process,
    )
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    spans = [json.loads(batch.marker(first, quick.hash).read_text())]
    done = {p: p.stat().st_mtime_ns for p in (place / "runs").glob("*/result.json")}
    assert len(done) in (1, 2) and list((first.folder / ".snakemake" / "incomplete").iterdir())

    second = graph_of(
        tune, child, pages=[page], devices=["0", "1"], gpus=1
    )  # the endless one is not asked for again
    process = started(batch.save(second))
    text = process.communicate(timeout=400)[0]
    assert process.returncode == 1, text
    assert {p: p.stat().st_mtime_ns for p in done} == done  # nothing was repeated
    assert "2 done, 1 failed, 2 not started of 5 jobs" in text
    failed = text[text.index("2 done, 1 failed") :]
    assert (
        f"{broken.hash}  {broken}: backbone" in failed
        and "temprature" in failed
        and f"log: {batch.log(second, broken.hash)}" in failed
    )
    assert (
        f"{child}: not started, since it needs {broken.hash}" in failed
        and f"page a_page: not started, since it needs {child.hash}" in failed
    )
    assert (
        "temprature" in batch.log(second, broken.hash).read_text()
        and "FAILED: backbone" in text[: text.index("2 done, 1 failed")]
    )
    assert f"] {tune}: " in text or runs.find(tune).folder / "result.json" in done
    spans += [json.loads(batch.marker(second, tune.hash).read_text())]
    assert all(set(s["devices"]) < {"0", "1"} for s in spans if "devices" in s)


@WITH_SNAKEMAKE
def test_a_finished_batch_starts_nothing(place, instant, capsys):
    tune = finetuning(pretraining())
    graph = graph_of(tune)
    runs.ensure(tune, "cpu", 0)
    assert batch.start(graph) and "all 2 jobs are done already" in capsys.readouterr().out
    assert not (graph.folder / ".snakemake").exists()


@WITH_SNAKEMAKE
def test_a_page_is_executed_when_its_runs_are_stored(place, instant, capfd):
    graph = batch.gather("smoke", "fame_table3*")
    for r in graph.runs.values():
        runs.ensure(r, "cpu", 0)
    assert (
        cli.main(["batch", "--profile", "smoke", "--only", "fame_table3*", "--cores", "1", "--device", "cpu"])
        == 0
    )
    said = capfd.readouterr().out
    assert "[13/13] page fame_table3_foreground_ratio" in said and "13 done of 13 jobs" in said
    assert (place / "outputs" / "mine" / "smoke" / "fame_table3_foreground_ratio.ipynb").is_file()
    assert (
        cli.main(["batch", "--profile", "smoke", "--only", "fame_table3*", "--cores", "1", "--device", "cpu"])
        == 0
    )
    assert "all 13 jobs are done already" in capfd.readouterr().out


def test_old_python_is_told_in_one_sentence(place, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 10, 14))
    monkeypatch.setattr(sys, "version", "3.10.14 (main)")
    assert cli.main(["batch", "--profile", "smoke"]) == 1
    said = capsys.readouterr()
    assert (
        "needs Python 3.11 or newer" in said.err
        and "3.10.14" in said.err
        and len(said.err.strip().splitlines()) == 1
        and not said.out
    )


# ---------------------------------------------------------------- one run


def test_one_run_over_two_processes(place, capsys):
    path = place / "recipe.json"
    recipe = pretraining()
    path.write_text(recipe.json())
    assert cli.main(["run", str(path), "--nproc", "2", "--device", "cpu", "--workers", "0"]) == 0
    result = runs.find(recipe)
    assert result.meta["processes"] == 2 and result.metrics["effective_batch"] == recipe.schedule.batch_size
    assert str(result) in capsys.readouterr().out


def test_a_run_is_found_by_the_first_digits_of_its_hash(place, instant, capsys, monkeypatch):
    monkeypatch.setattr(batch, "registry", lambda known=batch.chosen("fame_table3*"): known)
    recipe = next(iter(batch.gather("smoke").runs.values()))
    assert cli.main(["run", recipe.hash[:6], "--profile", "smoke", "--device", "cpu"]) == 0 and runs.find(
        recipe
    )
    for words, message in (
        (["run", "ffffffff", "--profile", "smoke"], "no table has a run 'ffffffff'"),
        (["run", "", "--profile", "smoke"], "'' names no run"),
        (["run", recipe.hash, "--nproc", "0"], "--nproc 0"),
    ):
        assert cli.main(words) == 1 and message in capsys.readouterr().err
