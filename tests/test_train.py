"The training loop: schedules, gradients, checkpoints, resume, the record."

import csv
import io
import json
import math
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from train_toys import InParts, Method, Toy  # noqa: E402

from mvnb import models, train as T  # noqa: E402
from mvnb.train import (
    NonFiniteLoss,
    ResumeError,
    Schedule,
    fit,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
)  # noqa: E402

HERE = Path(__file__).parent
SHORT = Schedule(epochs=3, batch_size=4, lr=0.05)


def run(folder, schedule=SHORT, method=None, data=None, **kw):
    method = method or Method()
    return method, fit(method, data or Toy(), schedule, folder=folder, device="cpu", progress=False, **kw)


def same(a, b):
    a, b = (list(x.state_dict().items()) for x in (a, b))
    return len(a) == len(b) and all(k == m and torch.equal(u, v) for (k, u), (m, v) in zip(a, b))


def table(folder):
    with open(Path(folder) / "losses.csv", newline="") as f:
        return list(csv.DictReader(f))


class Stopped(Exception):
    pass


class StopsAt(Method):
    "Raises at the start of a step: an interruption without a last word."

    def __init__(self, at, **kw):
        super().__init__(**kw)
        self.at = at

    def start_step(self, step):
        if step == self.at:
            raise Stopped


StopsAt.__name__ = "Method"


# ---- learning rate ------------------------------------------------------------------------------
def test_cosine_by_hand():
    s = Schedule(epochs=2, batch_size=1, lr=0.4)
    expected = [0.2 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    assert [learning_rate(s, i, 4) for i in range(8)] == pytest.approx(expected)
    assert learning_rate(s, 4, 4) == pytest.approx(0.2)


def test_warmup_then_cosine_by_hand():
    s = Schedule(epochs=3, batch_size=1, lr=1.0, warmup_epochs=1)
    assert [learning_rate(s, i, 4) for i in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert learning_rate(s, 8, 4) == pytest.approx(0.5)
    assert learning_rate(s, 11, 4) == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))


def test_steps_of_fame_finetuning():
    s = Schedule(epochs=150, batch_size=128, lr=0.025, schedule="step", milestones=(60, 120))
    rates = [learning_rate(s, e * 10 + i, 10) for e in range(150) for i in range(10)]
    assert rates == pytest.approx([0.025] * 600 + [0.0025] * 600 + [0.00025] * 300)


def test_max_steps_ends_the_cosine():
    s = Schedule(epochs=100, batch_size=1, lr=1.0, max_steps=10)
    assert T.total_steps(s, 7) == 10
    assert learning_rate(s, 5, 7) == pytest.approx(0.5)


def test_a_cosine_ends_where_it_is_told():
    "From a peak of 1 to 0.2: half way down it stands at their mean; warm-up still rises from 0."
    s = Schedule(epochs=11, batch_size=1, lr=1.0, min_lr=0.2, warmup_epochs=1)
    rates = [learning_rate(s, i, 4) for i in range(45)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[24] == pytest.approx(0.6) and rates[44] == pytest.approx(0.2)
    assert min(rates[4:]) == rates[44]


@pytest.mark.parametrize("more", [dict(min_lr=0.2), dict(min_lr=0.01, schedule="step"), dict(min_lr=-1.0)])
def test_an_end_above_the_rate_or_without_a_cosine_is_refused(more):
    with pytest.raises(ValueError, match="min_lr"):
        Schedule(epochs=1, batch_size=1, lr=0.1, **more)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["cosine", "step", "constant"]),
    st.integers(1, 20),
    st.integers(1, 30),
    st.floats(0, 5),
    st.floats(1e-4, 10),
)
def test_rate_stays_between_zero_and_its_height(kind, epochs, per_epoch, warmup, lr):
    s = Schedule(
        epochs=epochs,
        batch_size=1,
        lr=lr,
        schedule=kind,
        warmup_epochs=warmup,
        milestones=(2, 4) if kind == "step" else (),
    )
    rates = [learning_rate(s, i, per_epoch) for i in range(epochs * per_epoch)]
    assert all(0 <= r <= lr * (1 + 1e-9) for r in rates)
    rise = min(len(rates), int(warmup * per_epoch))
    if kind != "step":
        assert rates[:rise] == sorted(rates[:rise])
    assert rates[max(0, rise) :] == sorted(rates[max(0, rise) :], reverse=True)


@pytest.mark.parametrize(
    "bad",
    [
        dict(optimizer="adam"),
        dict(schedule="linear"),
        dict(precision="fp8"),
        dict(epochs=0),
        dict(accumulate=0),
        dict(batch_size=2.5),
        dict(lr=float("nan")),
        dict(lr=-1.0),
        dict(milestones=(3,)),
    ],
)
def test_impossible_schedules_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Schedule(**{"epochs": 1, "batch_size": 1, **bad})


# ---- optimizer ----------------------------------------------------------------------------------
def test_a_step_of_sgd_by_hand(tmp_path):
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([2.0]))

        def forward(self, batch):
            return {"loss": (self.w * batch["label"].float()).mean()}

    method, data = Line(), Toy(8)
    done = fit(
        method,
        data,
        Schedule(epochs=2, batch_size=4, lr=0.1, momentum=0.5, weight_decay=0.01),
        folder=tmp_path,
        device="cpu",
        progress=False,
    )
    w, velocity, losses = 2.0, 0.0, []
    for step, (_, _, ids) in enumerate(data.asked):
        gradient = np.mean([int(i) % 3 for i in ids])
        losses.append(w * gradient)
        velocity = 0.5 * velocity + gradient + 0.01 * w
        w -= 0.05 * (1 + math.cos(math.pi * step / 4)) * velocity
    assert method.w.item() == pytest.approx(w, rel=1e-5)
    assert done.losses == pytest.approx(losses, rel=1e-5)


def test_norms_and_biases_can_be_spared_the_decay():
    layers = nn.Sequential(nn.Conv3d(2, 4, 1), nn.BatchNorm3d(4), nn.Linear(4, 4))
    layers[2].weight.requires_grad_(False)
    for kind in ("sgd", "adamw"):
        s = Schedule(epochs=1, batch_size=1, optimizer=kind, weight_decay=0.05)
        (whole,) = T.make_optimizer(layers, s).param_groups
        assert len(whole["params"]) == 5 and whole["weight_decay"] == 0.05
        decayed, spared = T.make_optimizer(layers, replace(s, decay_norm_bias=False)).param_groups
        assert [p.ndim for p in decayed["params"]] == [5] and decayed["weight_decay"] == 0.05
        assert [p.ndim for p in spared["params"]] == [1] * 4 and spared["weight_decay"] == 0
    with pytest.raises(ValueError, match="nothing to train"):
        T.make_optimizer(layers.requires_grad_(False), s)


class OneStep(torch.nn.Module):
    "A classifier whose rates are noted at every step."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = models.build("vit_tiny", num_classes=3, width=24, depth=2, heads=2)

    def forward(self, batch):
        return {"loss": torch.nn.functional.cross_entropy(self.backbone(batch["x"]), batch["y"])}


class Few:
    "Four clips, one batch an epoch."

    def __len__(self):
        return 4

    def steps_per_epoch(self, batch_size, world=1, drop_last=True):
        return 1

    def batches(self, batch_size, epoch, **order):
        torch.manual_seed(epoch)
        yield {"x": torch.rand(4, 3, 4, 16, 16), "y": torch.tensor([0, 1, 2, 0]), "step": 0, "epoch": epoch}


def test_every_layer_learns_at_its_own_rate(tmp_path):
    "AdamW's first step moves a weight by its rate, whatever the gradient; so the steps tell the rates."
    schedule = T.Schedule(
        3, 4, optimizer="adamw", lr=0.01, layer_decay=0.5, weight_decay=0.0, warmup_epochs=2, max_steps=1
    )
    method = OneStep()
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    T.fit(method, Few(), schedule, folder=tmp_path, device="cpu", progress=False, tensorboard=False)
    for name, p in method.named_parameters():
        layer = 3  # the head
        if "blocks." in name:
            layer = 1 + int(name.split("blocks.")[1][0])
        elif "patch_embed" in name:
            layer = 0
        rate = 0.01 * 0.5 * 0.5 ** (3 - layer)  # half-way through the warm-up
        moved = (p.detach() - before[name]).abs()
        assert moved.max() == pytest.approx(rate, rel=0.02), name


def test_layers_that_are_not_there_are_refused():
    schedule = T.Schedule(1, 1, optimizer="adamw", layer_decay=0.75)
    with pytest.raises(ValueError, match="no transformer blocks"):
        T.make_optimizer(torch.nn.Linear(3, 3), schedule)
    for bad in (0, -1, 1.5):
        with pytest.raises(ValueError, match="layer_decay"):
            T.Schedule(1, 1, layer_decay=bad)


def test_accumulated_gradients_equal_those_of_the_large_batch(tmp_path):
    methods = [Method(dropout=0), Method(dropout=0)]
    a = run(tmp_path / "a", Schedule(epochs=2, batch_size=16, lr=0.1, clip_grad=0.5), methods[0])[1]
    b = run(
        tmp_path / "b", Schedule(epochs=2, batch_size=4, accumulate=4, lr=0.1, clip_grad=0.5), methods[1]
    )[1]
    assert a.effective_batch == b.effective_batch == 16 and a.steps == b.steps == 4
    assert a.losses == pytest.approx(b.losses, rel=1e-5)
    for x, y in zip(methods[0].parameters(), methods[1].parameters()):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_step(tmp_path):
    before = Method()
    after, _ = run(
        tmp_path,
        Schedule(
            epochs=1, batch_size=32, lr=1.0, momentum=0, weight_decay=0, schedule="constant", clip_grad=0.01
        ),
    )
    moved = math.sqrt(
        sum(((x - y) ** 2).sum().item() for x, y in zip(before.parameters(), after.parameters()))
    )
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_start_step_runs_once_per_optimizer_step(tmp_path):
    method, _ = run(tmp_path, Schedule(epochs=2, batch_size=4, accumulate=3, lr=0.1))
    assert method.steps == list(
        range(4)
    )  # 8 micro-batches an epoch: two steps of three, two micro-batches left over


def test_start_step_runs_on_every_part_that_has_it(tmp_path):
    method, done = run(tmp_path, Schedule(epochs=2, batch_size=4, accumulate=3, lr=0.1), InParts())
    assert method.steps == method.part.steps == method.part.inner.steps == [0, 1, 2, 3]
    assert (
        done.losses
        == run(tmp_path / "whole", Schedule(epochs=2, batch_size=4, accumulate=3, lr=0.1))[1].losses
    )


def test_alike_buffers_are_exempt_by_their_full_names():
    method = InParts()
    assert (
        T.mark_alike(method) == method._ddp_params_and_buffers_to_ignore == ["part.inner.kept", "part.kept"]
    )
    assert T.mark_alike(method) == ["part.inner.kept", "part.kept"]
    assert T.mark_alike(Method()) == []


def test_a_methods_own_exemptions_are_honoured():
    class Own(InParts):
        _ddp_params_and_buffers_to_ignore = ["seen"]
        alike = ("seen",)

    assert T.mark_alike(Own()) == ["part.inner.kept", "part.kept", "seen"]
    assert Own._ddp_params_and_buffers_to_ignore == ["seen"]


@pytest.mark.parametrize("alike", [("keptt",), "kept", ("weight",)])
def test_only_buffers_can_be_alike(alike):
    method = InParts()
    method.part.alike = alike
    with pytest.raises(ValueError, match="Part.alike names .* not one of its buffers"):
        T.mark_alike(method)


def test_bf16_trains(tmp_path):
    class Seen(Method):
        def forward(self, batch):
            out = super().forward(batch)
            self.kind = self.head(torch.zeros(1, 48)).dtype
            return out

    method, done = run(tmp_path, replace(SHORT, precision="bf16"), Seen())
    assert (
        method.kind == torch.bfloat16
        and method.head.weight.dtype == torch.float32
        and all(map(math.isfinite, done.losses))
    )


def test_too_few_videos_are_named(tmp_path):
    with pytest.raises(ValueError, match="6 videos make 1 batches of 4"):
        run(tmp_path, Schedule(epochs=1, batch_size=4, accumulate=2), data=Toy(6))


# ---- randomness ---------------------------------------------------------------------------------
def test_seed_decides_everything(tmp_path):
    a, b, c = (run(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert same(a[0], b[0]) and a[1].losses == b[1].losses and a[1].losses != c[1].losses


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    method = Method()
    torch.manual_seed(3)
    run(tmp_path, method=method)
    assert torch.equal(torch.rand(4), expected)


# ---- checkpoints --------------------------------------------------------------------------------
STATE = {"step": 3, "weights": torch.arange(500.0), "names": ["loss"]}


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.booleans(), st.integers(1, 255))
def test_any_damage_is_noticed_or_harmless(tmp_path_factory, where, cut, flip):
    folder = tmp_path_factory.mktemp("damage")
    save_checkpoint(folder / "c.pt", {**STATE, "step": 2})
    save_checkpoint(folder / "c.pt", STATE)
    content = bytearray((folder / "c.pt").read_bytes())
    at = int(where * len(content))
    if cut:
        content = content[:at]
    else:
        content[at] ^= flip
    (folder / "c.pt").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = load_checkpoint(folder / "c.pt")
    assert state["step"] in (2, 3) and torch.equal(state["weights"], STATE["weights"])
    if cut:
        assert state["step"] == 2


def test_nothing_whole_means_starting_anew(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.warns(UserWarning, match="starts anew|is damaged"):
        method, done = run(tmp_path)
    assert done.resumed == 0 and same(method, run(tmp_path / "fresh")[0])


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c.pt", STATE)

    def full(*a):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path / "c.pt", {"step": 4})
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"] and load_checkpoint(tmp_path / "c.pt")[
        "step"
    ] == 3


def test_code_in_a_checkpoint_never_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"step": 1, "evil": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.warns(UserWarning, match="damaged|starts anew"):
        assert load_checkpoint(tmp_path / "checkpoint.pt") is None
    assert not (tmp_path / "owned").exists()


# ---- resume -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "kind", [dict(optimizer="sgd"), dict(optimizer="adamw"), dict(batch_size=2, accumulate=2)]
)
@pytest.mark.parametrize("at", [1, 7, 8, 9, 23])
def test_interrupted_equals_uninterrupted(tmp_path, kind, at):
    schedule = replace(SHORT, warmup_epochs=0.5, **kind)
    whole, done = run(tmp_path / "whole", schedule)
    with pytest.raises(Stopped):
        run(tmp_path / "cut", schedule, StopsAt(at), checkpoint_every=0)
    data = Toy()
    method, rest = run(tmp_path / "cut", schedule, data=data)
    assert rest.resumed == at and data.asked[0][:2] == (
        at // 8,
        at % 8 * schedule.accumulate,
    )  # what was trained is not read again
    assert same(method, whole) and rest.losses == done.losses and rest.metrics == done.metrics
    assert table(tmp_path / "cut") == table(tmp_path / "whole")


def test_a_finished_training_is_not_trained_again(tmp_path):
    method, done = run(tmp_path)
    data = Toy()
    again, stored = run(tmp_path, data=data)
    assert same(method, again) and stored.losses == done.losses and stored.steps == 24 and data.asked == []
    assert stored.seconds == done.seconds and stored.peak_memory == done.peak_memory > 10**6


def test_a_damaged_checkpoint_falls_back_and_ends_the_same(tmp_path):
    whole, _ = run(tmp_path / "whole")
    with pytest.raises(Stopped):
        run(tmp_path / "cut", SHORT, StopsAt(10), checkpoint_every=0)
    file = tmp_path / "cut" / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="is damaged"):
        method, rest = run(tmp_path / "cut")
    assert rest.resumed == 9 and same(method, whole)


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(schedule=replace(SHORT, lr=0.1)), "lr=0.05 .now 0.1."),
        (dict(seed=1), "seed=0 .now 1."),
        (dict(data=Toy(40)), "steps_per_epoch=8 .now 10."),
        (dict(fingerprint="x"), "fingerprint=None .now 'x'."),
    ],
)
def test_another_training_is_refused(tmp_path, change, named):
    run(tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ResumeError, match=named):
        run(tmp_path, **change)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_checkpoints_that_call_the_method_a_task_still_load(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path / "old", SHORT, StopsAt(9), checkpoint_every=0)
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        state = T._verified(tmp_path / "old" / name)
        state["identity"]["task"] = state["identity"].pop("method")
        torch.save(state, tmp_path / "old" / name)
    method, rest = run(tmp_path / "old")
    whole, done = run(tmp_path / "whole")
    assert rest.resumed == 9 and rest.losses == done.losses and same(method, whole)


def test_another_method_is_refused(tmp_path):
    run(tmp_path)

    class Other(Method):
        def __init__(self):
            super().__init__()
            self.more = nn.Linear(48, 2)

    with pytest.raises(ResumeError, match="method='Method of"):
        run(tmp_path, method=Other())


def test_sigkill_at_any_moment_changes_no_bit(tmp_path):
    """Forked children are killed, at random moments and at every stroke of writing files,
    and started again until one finishes."""
    threads = torch.get_num_threads()
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
    killer = subprocess.run(
        [sys.executable, HERE / "train_killed.py", tmp_path],
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert killer.returncode == 0, killer.stderr[-2000:]
    reports = json.loads(killer.stdout.splitlines()[-1])
    torch.set_num_threads(1)
    try:
        schedule = Schedule(epochs=8, batch_size=4, lr=0.05, accumulate=2, warmup_epochs=1, clip_grad=5.0)
        whole, done = run(tmp_path / "whole", schedule)
        for how, least in (("random", 6), ("strokes", 6)):
            assert reports[how]["codes"] and not any(reports[how]["codes"]), killer.stderr[-2000:]
            assert reports[how]["kills"] >= least
            assert sorted(p.name for p in (tmp_path / how).iterdir()) == [
                "checkpoint.previous.pt",
                "checkpoint.pt",
                "losses.csv",
                "tensorboard",
            ]
            method, stored = run(tmp_path / how, schedule)
            assert same(method, whole) and stored.losses == done.losses
            assert table(tmp_path / how) == table(tmp_path / "whole")
    finally:
        torch.set_num_threads(threads)


# ---- the record ---------------------------------------------------------------------------------
def test_the_csv_holds_every_step_once(tmp_path):
    method, done = run(tmp_path)
    rows = table(tmp_path)
    assert list(rows[0]) == ["step", "epoch", "lr", "loss", "acc"]
    assert [(int(r["step"]), int(r["epoch"])) for r in rows] == [(i, i // 8) for i in range(24)]
    assert [float(r["loss"]) for r in rows] == done.losses and [
        float(r["acc"]) for r in rows
    ] == done.metrics["acc"]
    assert [float(r["lr"]) for r in rows] == [learning_rate(SHORT, i, 8) for i in range(24)]


def test_tensorboard_after_a_resume_has_no_step_twice(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Stopped):
        run(tmp_path, SHORT, StopsAt(11), checkpoint_every=0)
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        assert (tmp_path / name).exists()
    (tmp_path / "checkpoint.pt").unlink()  # two steps of the event file are ahead of this checkpoint
    _, done = run(tmp_path)
    events = (
        EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0}).Reload().Scalars("loss")
    )
    assert [e.step for e in events] == list(range(24))
    assert [e.value for e in events] == pytest.approx(done.losses)


class Breaks(Method):
    def __init__(self, at, how):
        super().__init__()
        self.at, self.how, self.step = at, how, 0

    def start_step(self, step):
        self.step = step

    def forward(self, batch):
        out = super().forward(batch)
        if self.step == self.at:
            if self.how == "loss":
                out["loss"] = out["loss"] * float("nan")
            else:
                out["loss"] = (
                    out["loss"] + (self.head.bias - self.head.bias.detach()).sqrt().sum()
                )  # finite, its gradient is not
        return out


Breaks.__name__ = "Method"


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("every", [0, 1000])
def test_broken_weights_never_reach_a_checkpoint(tmp_path, how, every):
    with pytest.raises(NonFiniteLoss, match="not finite at step") as caught:
        run(tmp_path, method=Breaks(5, how), checkpoint_every=every)
    assert caught.value.step in (5, 6) and "lower lr" in str(caught.value)
    if how == "loss":
        assert (
            caught.value.step == 5
            and caught.value.lr == learning_rate(SHORT, 5, 8)
            and len(caught.value.losses) == 5
        )
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert (state is None) == (every == 1000)
    if state:
        assert state["step"] == 5 and all(v.isfinite().all() for v in state["model"].values())


def test_a_finite_loss_with_broken_last_gradient_is_noticed(tmp_path):
    with pytest.raises(NonFiniteLoss, match="norm of the weights is not finite at step 23"):
        run(tmp_path, method=Breaks(23, "gradient"), checkpoint_every=1000)
    assert load_checkpoint(tmp_path / "checkpoint.pt") is None


def test_losses_are_fetched_rarely(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(
        T.Record,
        "flush",
        lambda self, fabric, plain=T.Record.flush: (flushed.append(len(self.pending)), plain(self, fabric)),
    )
    run(tmp_path, replace(SHORT, epochs=40))
    assert sum(flushed) == 320 and len(flushed) < 100


def test_unreadable_videos_are_reported(tmp_path):
    data = Toy()
    data.failed["a/b.avi"] = "truncated"
    assert run(tmp_path, data=data)[1].failed == {"a/b.avi": "truncated"}
    assert run(tmp_path)[1].failed == {"a/b.avi": "truncated"}


def test_a_stream_that_ends_early_is_an_error(tmp_path):
    class Short(Toy):
        def steps_per_epoch(self, *a, **kw):
            return 9

    with pytest.raises(RuntimeError, match="the data ended at step 8"):
        run(tmp_path, data=Short())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("cache, workers", [("memory", 0), (None, 0), (None, 2)])
def test_interrupted_equals_uninterrupted_on_real_clips(tmp_path, puppets_root, cache, workers, accumulate):
    "Dropout draws from torch's own generator, which a loader must leave alone."
    from mvnb import clips, datasets, models, protocols

    index = datasets.load("puppets-u", "train", root=puppets_root, scale=0.15)
    data = clips.ClipDataset(index, length=4, stride=2, size=32, cache=cache)
    batch_size = len(index) // (4 * accumulate)
    schedule = Schedule(epochs=2, batch_size=batch_size, accumulate=accumulate, lr=0.01)

    class Classifier(protocols.Classifier):
        def __init__(self, at=None):
            torch.manual_seed(0)
            super().__init__(models.build("r3d_tiny"), len(index.classes), dropout=0.5)
            self.at = at

        def start_step(self, step):
            if step == self.at:
                raise Stopped

    whole, done = run(tmp_path / "whole", schedule, Classifier(), data, workers=workers)
    with pytest.raises(Stopped):
        run(tmp_path / "cut", schedule, Classifier(5), data, checkpoint_every=0, workers=workers)
    method, rest = run(tmp_path / "cut", schedule, Classifier(), data, workers=workers)
    assert rest.resumed == 5 and rest.steps == 8 and rest.losses == done.losses and same(method, whole)


@pytest.mark.parametrize(
    "fault, at", [(KeyboardInterrupt(), 1), (KeyboardInterrupt(), 3), (OSError(28, "full"), 2)]
)
def test_what_ends_a_save_is_told_as_what_it_is(tmp_path, fault, at):
    "torch's writer would tell of a position that it does not expect."

    class Failing(io.BytesIO):
        writes = 0

        def write(self, data):
            self.writes += 1
            if self.writes > at:
                raise fault
            return super().write(data)

    with pytest.raises(type(fault)):
        T._write_checked(Failing(), {"weights": torch.ones(50_000), "step": 3})
