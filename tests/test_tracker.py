import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from selenium.webdriver.support.ui import Select

from mlx_entk import InputError, KernelTracker, RowsLeftOutWarning, entk, find_cliffs
from mlx_entk.dynamics import centred_alignment
from tests.chromium import PHONE, chromium, load, needs_chromium
from tests.models import MLP

probe = mx.random.normal((12, 3), key=mx.random.key(4))


def fit(model: MLP, steps: int, tracker: KernelTracker | None = None) -> list[float]:
    """A user's own loop, compiled."""
    optimizer = optim.Adam(1e-2)
    state = [model.state, optimizer.state]
    loss_and_gradient = nn.value_and_grad(
        model, lambda net, x: nn.losses.mse_loss(net(x), mx.sin(x[:, :2]))
    )

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x: mx.array) -> mx.array:
        loss, gradient = loss_and_gradient(model, x)
        optimizer.update(model, gradient)
        return mx.array(loss)

    losses = []
    for number in range(steps):
        if tracker is not None:
            tracker(number)
        losses.append(float(step(probe)))
    return losses


def test_a_tracker_logs_what_the_kernel_does_and_leaves_training_alone(tmp_path: Path) -> None:
    bank = {"first": np.array(probe)[:, :1]}
    model = MLP((3, 8, 2))
    log = tmp_path / "kernels.jsonl"
    tracker = KernelTracker(
        model, probe, every=10, reduction="trace", features=bank, groups=[(0, 2)], top=5, log=log
    )

    assert fit(model, 25, tracker) == fit(MLP((3, 8, 2)), 25)
    assert [row["step"] for row in tracker.rows] == [0, 10, 20]
    assert [json.loads(line) for line in log.read_text().splitlines()] == tracker.rows
    assert tracker.seconds == pytest.approx(sum(row["seconds"] for row in tracker.rows), abs=1e-3)


def test_its_numbers_are_those_of_the_kernels_themselves() -> None:
    bank = {"first": np.array(probe)[:, :1]}
    model = MLP((3, 8, 2))
    tracker = KernelTracker(model, probe, every=1, features=bank, groups=[(0, 2)], top=5)
    kernels = []
    for step in range(3):
        tracker(step)
        kernels.append(entk(model, probe, reduction="trace"))
        fit(model, 3)

    for row, kernel, last in zip(tracker.rows, kernels, [kernels[0], *kernels], strict=False):
        logged = row["kernels"]["full"]
        values, vectors = np.linalg.eigh(kernel.astype(np.float64))
        np.testing.assert_allclose(logged["values"], values[::-1][:5], rtol=1e-4)
        shares = values[values > 0] / values[values > 0].sum()
        rank = np.exp(-(shares * np.log(shares)).sum())
        assert logged["effective_rank"] == pytest.approx(rank, rel=1e-3)
        for key, other in (("distance_from_last", last), ("distance_from_first", kernels[0])):
            cosine = (kernel * other).sum() / np.linalg.norm(kernel) / np.linalg.norm(other)
            assert logged[key] == pytest.approx(1 - cosine, abs=1e-5)
        feature = bank["first"] - bank["first"].mean()
        overlap = ((vectors[:, ::-1][:, :3].T @ feature) ** 2).sum() / (feature**2).sum()
        (aligned,) = logged["alignment"]
        assert aligned["overlap"] == pytest.approx(overlap, abs=1e-3)
        assert aligned["dimension"] == 1
    assert tracker.rows[2]["kernels"]["full"]["distance_from_first"] > 1e-4


def test_a_probe_set_of_numpy_is_one_too() -> None:
    tracker = KernelTracker(MLP((3, 8, 2)), np.array(probe), every=1)

    row = tracker(0)

    assert row is not None
    assert len(row["kernels"]["full"]["values"]) == 12


def test_the_time_it_takes_can_be_bounded() -> None:
    model = MLP((3, 8, 2))
    tracker = KernelTracker(model, probe, every=1, max_share=1e-6)

    with pytest.warns(RowsLeftOutWarning, match="step 1 is left out.*max_share is 1e-06") as told:
        fit(model, 10, tracker)
    last = tracker.close()

    assert len(told) == 1
    assert tracker.skipped == 9
    assert [row["step"] for row in tracker.rows] == [0, 10]
    assert last is not None
    assert last["skipped"] == 9


def test_a_row_has_the_cliffs_of_its_kernels_and_what_the_call_was_given() -> None:
    model = MLP((3, 8, 2))
    with KernelTracker(model, probe, every=1, by_layer=False) as tracker:
        row = tracker(0, loss=mx.array(0.5), accuracy=float("nan"))

    assert row is not None
    assert row["metrics"] == {"loss": 0.5, "accuracy": None}
    found = row["kernels"]["full"]
    expected = find_cliffs(found["values"], found["noise_floor"])
    assert [cliff["modes"] for cliff in found["cliffs"]] == [list(c.modes) for c in expected]
    assert [r["step"] for r in tracker.rows] == [0, 1]
    with pytest.raises(InputError, match="closed"):
        tracker(2)
    with pytest.raises(InputError, match="loss is no number"):
        KernelTracker(model, probe, every=1)(0, loss="low")


def test_an_error_in_the_loop_ends_the_page_and_logs_no_row(tmp_path: Path) -> None:
    page = tmp_path / "live.html"
    tracker = KernelTracker(MLP((3, 8, 2)), probe, every=1, by_layer=False, page=page)
    tracker(0)
    assert 'data-reload="' in page.read_text(encoding="utf-8")
    with pytest.raises(KeyError), tracker:
        raise KeyError

    assert len(tracker.rows) == 1
    written = page.read_text(encoding="utf-8")
    assert 'data-reload="' not in written
    assert "Stopped by an error: step 0" in written


def test_importing_the_tracker_imports_nothing_that_draws() -> None:
    code = "import sys, mlx_entk; print({'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@needs_chromium
def test_the_live_page_keeps_its_kernel_over_a_reload_and_fits_a_phone(tmp_path: Path) -> None:
    page = tmp_path / "live.html"
    bank = {"<b>first": np.array(probe)[:, :1]}
    model = MLP((3, 8, 2))
    tracker = KernelTracker(model, probe, every=1, features=bank, groups=[(0, 2)], page=page)
    for step in range(4):
        fit(model, 3)
        tracker(step, loss=1.0 / (step + 1))
    tracker.close(4)

    with chromium() as browser:
        load(browser, page, PHONE)
        names = [o.text for o in browser.find_elements("css selector", "#kernel option")]
        assert names[-1] == "whole kernel" or names[0] == "whole kernel"
        Select(browser.find_element("id", "kernel")).select_by_visible_text(names[1])
        browser.refresh()
        shown = [h for h in browser.find_elements("css selector", "h3") if h.is_displayed()]
        assert shown[0].text == names[1]
        assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE
        told = browser.find_element("css selector", "[data-kernel]:not([hidden]) table").text
        assert "<b>first" in told
        assert "before training" in told
        assert browser.get_log("browser") == []
    assert "Done: step 4" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every is 0"),
        ({"every": 1.5}, "every is 1.5: pass a whole number"),
        ({"reduction": "full"}, "reduction is full"),
        ({"reduction": (0, 1)}, "reduction 0,1 is a block of the kernel, not a kernel"),
        ({"top": 13}, "top is 13: the probe set has 12 modes"),
        ({"max_share": 1.5}, "max_share is 1.5"),
        ({"page": "/no/such/folder/live.html"}, "there is no folder"),
        ({"top": 2.0}, "top is 2.0: pass a whole number"),
        ({"features": {"f": np.ones((3, 1))}}, "features f are over 3 inputs"),
        ({"features": {"f": np.ones(12)}}, r"features f have shape \(12,\)"),
        ({"features": {"f": np.full((12, 1), np.nan)}}, "12 of 12 inputs .* infinite features f"),
        ({"probe": [[1.0]]}, "probe is list"),
        ({"probe": mx.ones(())}, r"probe has shape \(\)"),
        ({"groups": [(3, 12)]}, "modes 3–12: the probe set has 12 modes"),
    ],
)
def test_a_tracker_refuses_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"probe": probe, "every": 1, "top": 5} | settings
    with pytest.raises(InputError, match=message):
        KernelTracker(MLP((3, 8, 2)), **arguments)


def test_a_network_that_dies_or_wakes_is_followed(tmp_path: Path) -> None:
    model = MLP((3, 8, 2))
    alive = model.parameters()
    saturated = {"weight": mx.zeros((8, 3)), "bias": mx.full((8,), 100.0)}
    dead = {"layers": [saturated, *alive["layers"][1:]]}
    log = tmp_path / "kernels.jsonl"
    tracker = KernelTracker(model, probe, every=1, features={"f": np.array(probe)[:, :1]}, log=log)
    for step, state in enumerate((alive, dead, alive)):
        model.update(state)
        tracker(step)

    rows = [json.loads(line)["kernels"] for line in log.read_text().splitlines()]
    (name,) = [n for n in rows[0] if n.endswith("0.weight")]
    assert [row[name]["effective_rank"] > 0 for row in rows] == [True, False, True]
    assert [row[name]["distance_from_first"] for row in rows] == [
        pytest.approx(0),
        1,
        pytest.approx(0),
    ]
    assert rows[1][name]["values"] == [0] * 12
    assert rows[1][name]["alignment"][0]["overlap"] == 0


def test_a_tracker_aligns_with_targets_and_regresses_with_the_after_kernel() -> None:
    model = MLP((3, 8, 2))
    targets = np.sin(np.array(probe)[:, :2])
    tracker = KernelTracker(
        model, probe, every=10, targets=targets, held_out=[1, 5, 9], keep=True, by_layer=False
    )

    fit(model, 41, tracker)

    first, *_, last = tracker.rows
    kernel = entk(model, probe, reduction="trace")
    assert first["kernels"]["full"]["velocity"] == 0
    moved = last["kernels"]["full"]
    assert moved["velocity"] == pytest.approx(moved["distance_from_last"] / 10)
    aligned = centred_alignment(kernel, targets @ targets.T)
    assert moved["with_targets"] == pytest.approx(aligned, abs=0.05)  # one step further on
    assert set(last["after_kernel"]) == {"r2"}
    with_last = tracker.alignment_with_last()["full"]
    assert len(with_last) == len(tracker.rows)
    assert with_last[-1] == pytest.approx(1)
    assert with_last[0] < 1


def test_the_after_kernel_tells_classes() -> None:
    """The kernel of a linear model tells classes on a line apart."""
    x = mx.linspace(-1, 1, 20)[:, None]
    labels = (np.array(x)[:, 0] > 0).astype(int)
    tracker = KernelTracker(nn.Linear(1, 2), x, every=1, targets=labels, held_out=range(0, 20, 3))

    row = tracker(0)

    assert row is not None
    assert row["after_kernel"]["accuracy"] == 1
    assert row["after_kernel"]["r2"] > 0.5
    with pytest.raises(InputError, match="keep=True"):
        tracker.alignment_with_last()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"held_out": [1, 2]}, "held_out needs targets"),
        ({"targets": np.zeros(5)}, "targets are of 5 inputs, the probe set has 12"),
        ({"targets": np.zeros(12), "held_out": [1, 1]}, "each once"),
        ({"targets": np.zeros(12), "held_out": [1, 99]}, "not numbers of the 12 probe inputs"),
        ({"targets": np.zeros(12), "held_out": [3]}, "pass 2 to 11"),
        ({"targets": np.full(12, 0.5)}, "must be classes"),
    ],
)
def test_targets_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        KernelTracker(MLP((3, 8, 2)), probe, every=1, **settings)
