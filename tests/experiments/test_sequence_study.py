"""Studies of sequence tasks: every task end to end on made-up data, resuming, the search, and the page of results."""

import json
import re
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ray import cloudpickle

from liquid_control.data.sequences import SequenceSet, SequenceSplits
from liquid_control.experiments import sequence_study
from liquid_control.experiments.__main__ import SequenceStudyConfig, main
from liquid_control.experiments.sequence_cells import CELLS
from liquid_control.experiments.sequence_ray import run_given
from liquid_control.experiments.sequence_report import OWN_WORDS, Measured, difference, interval, report
from liquid_control.experiments.sequence_study import CellStudy, Job, LocalEngine, propose, run_study
from liquid_control.experiments.sequence_task import SPACE, Range, Recipe
from liquid_control.experiments.sequence_training import Sequences, build
from liquid_control.experiments.tasks import STUDIES, TASKS
from liquid_control.nn import CfC, last_valid
from liquid_control.support.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "results" / "sequences.md"


def made_up(task, count=24, steps=6):
    """Splits of the form that a task's data have, with padding where only the last step is asked for."""
    count = 6 if task.eyes else count
    rng = np.random.default_rng(0)
    inputs = 24 * 64 * 3 if task.eyes else 17 if task.name == "walker2d" else 2

    def part():
        lengths = rng.integers(2, steps + 1, count) if task.answer == "last" else np.full(count, steps)
        mask = np.arange(steps) < lengths[:, None]
        x = np.where(mask[..., None], rng.standard_normal((count, steps, inputs)), 0).astype(np.float32)
        elapsed = np.where(mask, rng.uniform(0.2, 2, (count, steps)), 1).astype(np.float32)
        shape = (count, steps) if task.by_step else (count,)
        target = rng.integers(0, 2, shape) if task.classes else rng.standard_normal(shape).astype(np.float32)
        if task.name == "walker2d":
            target = x[..., :17] + np.float32(0.1)
        return SequenceSet(x, elapsed, mask, target)

    return SequenceSplits(part(), part(), part())


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch):
    sequence_study.data_of.cache_clear()
    sequence_study.digest.cache_clear()
    for name, task in TASKS.items():
        small = replace(task, load=lambda protocol, fold, task=task: made_up(task), leak=None)
        if not task.eyes:
            small = replace(small, parameters=600)
        monkeypatch.setitem(TASKS, name, small)
    yield
    sequence_study.data_of.cache_clear()
    sequence_study.digest.cache_clear()


def run_main(folder, *words):
    main([*words, "--folder", str(folder), "--epochs", "1"])


def timed_rows_of(folder, task, protocol, cell):
    lines = (folder / task / protocol / cell / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


def rows_of(folder, task, protocol, cell):
    rows = timed_rows_of(folder, task, protocol, cell)
    for row in rows:
        del row["seconds_per_epoch"]
    return rows


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_searched_tested_and_reported(name, tmp_path):
    run_main(tmp_path, name, "--cell", "gru", "--trials", "1", "--seeds", "1")
    task = TASKS[name]
    trial, seed = rows_of(tmp_path, name, next(iter(task.protocols)), "gru")
    assert trial["kind"] == "trial" and "test" not in trial  # test data are for what was chosen
    assert seed["kind"] == "seed" and set(seed["test"]) == set(task.metrics)
    assert all(np.isfinite(value) for value in seed["test"].values())
    assert seed["recipe"] == trial["recipe"]
    page = tmp_path / "page.md"
    main(["all", "--folder", str(tmp_path), "--report", "--page", str(page)])
    assert f"### {name}" in page.read_text() and "| GRU |" in page.read_text()
    assert page.with_suffix(".svg").read_text().startswith("<svg")
    kept = timed_rows_of(tmp_path, name, next(iter(task.protocols)), "gru")[1:]
    assert json.loads(page.with_suffix(".jsonl").read_text())["rows"] == kept


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_trains_within_the_parameters_and_stays_so(cell, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "xor", replace(TASKS["xor"], parameters=4000))
    run_main(tmp_path, "xor", "--cell", cell, "--trials", "1", "--seeds", "1")
    _, seed = rows_of(tmp_path, "xor", "event", cell)
    assert 100 < seed["parameters"] <= 4000 and np.isfinite(seed["test"]["accuracy"])


def test_a_stopped_study_goes_on_and_gives_the_rows_of_one_that_was_not(tmp_path, monkeypatch):
    words = ["rul", "--cell", "lstm", "--trials", "3", "--seeds", "2"]
    run_main(tmp_path / "whole", *words)
    done = 0

    def stops(job, progress):
        nonlocal done
        done += 1
        if done == 3:
            raise KeyboardInterrupt
        return real(job, progress)

    real = sequence_study.run_job
    monkeypatch.setattr(sequence_study, "run_job", stops)
    with pytest.raises(KeyboardInterrupt):
        run_main(tmp_path / "stopped", *words)
    assert len(rows_of(tmp_path / "stopped", "rul", "FD001", "lstm")) == 2
    run_main(tmp_path / "stopped", *words)
    assert done == 3 + 3
    rows = [rows_of(tmp_path / folder, "rul", "FD001", "lstm") for folder in ("whole", "stopped")]
    assert rows[0] == rows[1] and len(rows[0]) == 5
    run_main(tmp_path / "stopped", *words)
    assert done == 6  # nothing is left to measure


def test_more_trials_choose_again_and_leave_the_rows_that_there_were(tmp_path):
    for trials in ("1", "2"):
        run_main(tmp_path, "rul", "--cell", "gru", "--trials", trials, "--seeds", "1")
    rows = rows_of(tmp_path, "rul", "FD001", "gru")
    assert [(row["kind"], row.get("trials")) for row in rows] == [
        ("trial", None),
        ("seed", 1),
        ("trial", None),
        ("seed", 2),
    ]


def test_every_cell_gets_as_many_trials_and_is_finished_before_the_next(tmp_path):
    task = TASKS["rul"]
    studies = [CellStudy(task, "FD001", cell, tmp_path, 2, 2, 1, 1, 0) for cell in ("gru", "lstm")]
    told = []
    run_study(studies, LocalEngine(), lambda study, row: told.append((study.cell, row["kind"])))
    assert told == [(cell, kind) for cell in ("gru", "lstm") for kind in ("trial", "trial", "seed", "seed")]
    recipes = [[row["recipe"] for row in study.results.rows if row["kind"] == "trial"] for study in studies]
    assert recipes[0][0] == recipes[1][0] == vars(task.recipe)
    assert recipes[0][1] == recipes[1][1]  # drawn ones are the same for all cells


def test_a_search_stays_in_its_space_and_follows_what_it_found():
    recipes, values = [vars(Recipe())], [0.0]
    for _ in range(25):
        recipe = propose(SPACE, Recipe(), recipes, values, higher=True)
        assert SPACE["rate"].low <= recipe.rate <= SPACE["rate"].high
        assert recipe.head in SPACE["head"] and recipe.noise == Recipe().noise
        recipes.append(vars(recipe))
        values.append(float(recipe.head == "mlp") + recipe.size)
    assert propose(SPACE, Recipe(), recipes, values, True) == propose(SPACE, Recipe(), recipes, values, True)
    late = [recipe["head"] == "mlp" and recipe["size"] == 1.0 for recipe in recipes[-10:]]
    assert sum(late) >= 5


@pytest.mark.parametrize("answer", ["steps", "last"])
def test_a_deep_head_sees_the_inputs_beside_what_the_cell_puts_out(answer):
    task = replace(
        TASKS["imputation" if answer == "steps" else "rul"], answer=answer, every_step=False, parameters=2000
    )
    data = Sequences(made_up(replace(TASKS["event_mnist"], classes=False, answer=answer)).train)
    torch.manual_seed(0)
    models = {kind: build(task, Recipe(head=kind), "cfc", data)[0].eval() for kind in ("mlp", "deep")}
    for model in models.values():
        model.fit_scales(data)
        with torch.no_grad():
            model.head[0].weight[:, : model.cell.output_size] = 0  # nothing of the cell is left
    answers = {kind: model(data.x, data.elapsed, data.mask) for kind, model in models.items()}
    assert answers["mlp"].std(0).max() < 1e-6 < 1e-3 < answers["deep"].std(0).min()
    changed = data.x.clone()
    changed[data.mask.cumsum(1) < torch.from_numpy(data.lengths)[:, None]] = 7.0  # all but the last real step
    again = models["deep"](changed, data.elapsed, data.mask)
    if answer == "steps":
        again, answers["deep"] = (last_valid(part, data.mask) for part in (again, answers["deep"]))
    torch.testing.assert_close(again, answers["deep"])


def test_the_activation_of_a_recipe_is_that_of_the_backbone():
    data = Sequences(made_up(TASKS["xor"]).train)
    for cell in ("cfc", "cfc_no_gate", "mixed_cfc", "transformer_lnn"):
        model, _ = build(TASKS["xor"], Recipe(activation="relu"), cell, data)
        assert {part.activation for part in model.modules() if isinstance(part, CfC)} == {"relu"}


def test_options_that_came_later_do_not_tell_searches_apart_until_they_are_used():
    task = TASKS["rul"]
    assert replace(task, recipe=replace(task.recipe, activation=Recipe().activation)).search == task.search
    assert replace(task, recipe=replace(task.recipe, activation="relu")).search != task.search


def test_a_space_names_options_of_a_recipe_and_its_first_trial_lies_in_it():
    for task in TASKS.values():
        for name, options in task.whole_space.items():
            value = getattr(task.recipe, name)
            if isinstance(options, Range):
                assert options.low <= value <= options.high
            else:
                assert value in options, (task.name, name)


def test_what_is_not_there_is_named_with_the_nearest(tmp_path):
    for words, hint in (
        (["xro"], "did you mean 'xor'"),
        (["xor", "--cell", "ltx"], "did you mean 'ltc'"),
        (["xor", "--protocol", "even"], "did you mean 'event'"),
    ):
        with pytest.raises(UserError, match=hint):
            run_main(tmp_path, *words)
    with pytest.raises(UserError, match="nothing has been measured"):
        main(["all", "--report", "--folder", str(tmp_path), "--page", str(tmp_path / "page.md")])
    shutil.copy(PAGE.with_suffix(".jsonl"), tmp_path / "kept.jsonl")  # from which a page could be made
    with pytest.raises(UserError, match=r"nothing has been measured in .*/elsewhere: run a task with this --folder"):
        main(["all", "--report", "--folder", str(tmp_path / "elsewhere"), "--page", str(tmp_path / "kept.md")])
    with pytest.raises(UserError, match="a page is of all"):
        main(["xor", "--report", "--folder", str(tmp_path), "--page", str(tmp_path / "page.md")])
    with pytest.raises(UserError, match=r"the page .*page\.svg should be a \.md file"):
        main(["all", "--report", "--folder", str(tmp_path), "--page", str(tmp_path / "page.svg")])
    assert not list(tmp_path.glob("page.*"))
    with pytest.raises(UserError, match=r"--epochs must be at least 0 and at most 1000000\.0, not inf"):
        main(["xor", "--epochs", "inf", "--folder", str(tmp_path)])


def test_an_address_where_no_cluster_answers_is_said_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    begin = time.monotonic()
    with pytest.raises(UserError, match=f"no Ray at {address}: Connection refused"):
        run_main(tmp_path, "xor", "--cell", "gru", "--engine", "ray", "--address", address)
    assert time.monotonic() - begin < 30


def test_results_of_other_options_are_refused(tmp_path):
    words = ["rul", "--cell", "gru", "--trials", "1", "--seeds", "1"]
    run_main(tmp_path, *words)
    with pytest.raises(UserError, match="other options"):
        main([*words, "--folder", str(tmp_path), "--epochs", "2"])


def test_results_of_other_data_or_of_another_search_are_refused(tmp_path, monkeypatch):
    words = ["rul", "--cell", "gru", "--trials", "1", "--seeds", "1"]
    run_main(tmp_path, *words)
    task = TASKS["rul"]
    for other in (
        replace(task, load=lambda protocol, fold: made_up(task, 23)),
        replace(task, space={"batch": (8, 64)}),
        replace(task, recipe=Recipe(rate=1e-3)),
        replace(task, curriculum=0.5),
    ):
        sequence_study.digest.cache_clear()
        monkeypatch.setitem(TASKS, "rul", other)
        with pytest.raises(UserError, match="other options"):
            run_main(tmp_path, *words)
    sequence_study.digest.cache_clear()
    monkeypatch.setitem(TASKS, "rul", task)
    run_main(tmp_path, *words)


def test_what_cannot_be_loaded_leaves_no_study_behind(tmp_path, monkeypatch):
    def load(protocol, fold):
        raise UserError("there are no engines.")

    monkeypatch.setitem(TASKS, "rul", replace(TASKS["rul"], load=load))
    with pytest.raises(UserError, match="no engines"):
        run_main(tmp_path / "study", "rul", "--cell", "gru", "lstm", "--trials", "1", "--seeds", "1")
    assert not (tmp_path / "study").exists()


def test_a_few_rows_are_taken_from_all_over_the_data(monkeypatch):
    whole = made_up(TASKS["rul"], 24)
    ordered = whole._replace(train=whole.train._replace(target=np.arange(24, dtype=np.float32)))
    monkeypatch.setitem(TASKS, "rul", replace(TASKS["rul"], load=lambda protocol, fold: ordered))
    for rows, places in ((4, [0, 8, 15, 23]), (1, [0]), (0, range(24)), (99, range(24))):
        train, *_ = sequence_study.data_of("rul", "FD001", 0, rows)
        assert train.target.tolist() == list(places)


def test_a_training_that_begins_again_has_curves_of_its_own(tmp_path):
    words = ["rul", "--cell", "gru", "--seeds", "1", "--trials"]
    stopped = tmp_path / "rul/FD001/gru/tensorboard/trial-0/events.out.tfevents.0.stopped"
    stopped.parent.mkdir(parents=True)
    stopped.touch()
    for trials in ("1", "2"):
        run_main(tmp_path, *words, trials)
    curves = {path.parent.name for path in (tmp_path / "rul/FD001/gru/tensorboard").rglob("events*")}
    assert curves == {"trial-0", "trial-1", "seed-0-of-1-trials", "seed-0-of-2-trials"} and not stopped.exists()


def test_the_help_lists_all_tasks_cells_and_studies(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for name in (*TASKS, *CELLS, *STUDIES):
        assert name in told
    for task in TASKS.values():
        assert " ".join(task.summary.split()) in told or task.summary[:30] in told


def test_studies_of_their_own_are_reached_by_name(capsys):
    with pytest.raises(SystemExit):
        main(["irregular", "--help"])
    assert "liquid_control.experiments.irregular" in capsys.readouterr().out


def test_intervals_are_students_and_differences_are_paired():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    low, high = interval(values)
    assert (low, high) == pytest.approx((3 - 2.776 * np.std(values, ddof=1) / 5**0.5, 3 + 1.9630), rel=1e-3)
    assert interval(np.arange(15.0))[1] - 7 == pytest.approx(2.144787 * np.std(np.arange(15.0), ddof=1) / 15**0.5)

    def cell(name, scores, **effort):
        rows = [{"seed": seed, "test": {"mse": score}} for seed, score in enumerate(scores)]
        return Measured(name, {"trials": 1, **effort}, rows)

    apart = difference(cell("cfc", [1.0, 3.0, 9.0]), cell("lstm", [0.5, 2.5]), "mse")
    assert apart == pytest.approx((0.5, 0.5, 0.5))  # the seeds that both have
    assert difference(cell("cfc", [1.0]), cell("lstm", [1.0]), "mse") is None
    assert difference(cell("cfc", [1.0, 3.0, np.nan]), cell("lstm", [0.5, 2.5, 1.0]), "mse") is None
    assert difference(cell("cfc", [1.0, 3.0], rows=64), cell("lstm", [0.5, 2.5], rows=0), "mse") is None


def write_rows(folder, cell, shift=0.0, searches=((1, 3), (4, 3)), **effort):
    """Made-up rows of rul: searches of so many trials with so many seeds each."""
    task = TASKS["rul"]
    folder = folder / "rul" / "FD001" / cell
    folder.mkdir(parents=True, exist_ok=True)
    head = {"rows": 0, "epochs": task.epochs, "trial_epochs": task.trial_epochs or task.epochs}
    lines = [head | {"data": "the same", "search": "the same"} | effort]
    for trials, seeds in searches:
        for seed in range(seeds):
            scores = dict.fromkeys(task.metrics, 9.0) | {task.metric: 10 + trials + shift + 0.1 * seed}
            row = {"kind": "seed", "trials": trials, "seed": seed, "test": scores, "validation": scores, "recipe": {}}
            lines.append(row | {"parameters": 1234, "seconds_per_epoch": 2.0})
    lines.append({"kind": "trial", "seed": 1000, "recipe": {}, "validation": scores})
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def page_of(folder, page=""):
    return report(folder, list(TASKS.values()), "sequences.svg", page, kept={})[:2]


def test_a_page_takes_the_longest_search_and_marks_what_is_certain(tmp_path):
    for cell, shift in (("lstm", 0.0), ("cfc", 1.0)):
        write_rows(tmp_path, cell, shift)
    page, figure = page_of(tmp_path)
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert headings == ["Question", "Command", "Table", "Figure", "What mattered", "What failed"]
    table = [line for line in page.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in table[:4]] == [
        "| cell",
        "| ---",
        "| LSTM",
        "| CfC",
    ]  # the better one first
    assert table[-1] == "| rul, FD001 | CfC | LSTM | +1 (+1 to +1) | worse |"
    assert "Worse than the LSTM: CfC (rul, FD001)." in page
    assert "14.1 (13.85 to 14.35)" in table[2] and "**+1 (+1 to +1)**" in table[3] and "1,234" in table[3]
    assert figure.count("<circle") == 6
    (tmp_path / "rul" / "FD001" / "cfc" / "results.jsonl").write_text("{}\n{")
    with pytest.raises(UserError, match="damaged"):
        page_of(tmp_path)


def test_a_metric_that_came_later_is_left_empty_for_what_was_measured_before(tmp_path):
    write_rows(tmp_path, "lstm")
    path = tmp_path / "rul" / "FD001" / "lstm" / "results.jsonl"
    path.write_text(path.read_text().replace(', "score_capped": 9.0', ""))
    write_rows(tmp_path, "cfc", shift=1.0)
    lstm, cfc = (line for line in page_of(tmp_path)[0].splitlines() if line.startswith(("| LSTM", "| CfC")))
    assert lstm.split(" | ")[3:6] == ["9", "9", ""] and cfc.split(" | ")[3:6] == ["9", "9", "9"]


def test_what_someone_wrote_on_a_page_stays_and_what_the_numbers_say_is_said_anew(tmp_path):
    write_rows(tmp_path, "lstm")
    write_rows(tmp_path, "cfc", shift=1.0)
    first = page_of(tmp_path)[0]
    write_rows(tmp_path, "cfc", shift=-1.0)
    again = page_of(tmp_path, first)[0]
    assert "Better than the LSTM: CfC (rul, FD001)." in again and "Worse than the LSTM: none." in again
    written = again.replace(OWN_WORDS, "The weather.").replace("Worse than the LSTM: none.", "The rain.")
    write_rows(tmp_path, "cfc", shift=1.0)
    kept = page_of(tmp_path, written)[0]
    assert "The weather." in kept and "The rain." in kept and "Worse than" not in kept


def test_a_page_keeps_what_it_was_made_of_for_what_is_measured_elsewhere(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    monkeypatch.chdir(tmp_path)

    def rows_after(folder):
        main(["all", "--report", "--folder", str(folder), "--page", str(page)])
        return {line.split(" | ")[0].strip("| "): line for line in page.read_text().splitlines() if "1,234" in line}

    write_rows(tmp_path / "here", "lstm")
    write_rows(tmp_path / "here", "cfc", shift=1.0)
    before = rows_after(tmp_path / "here")
    files = {path.suffix: path.read_bytes() for path in tmp_path.glob("page.*")}
    assert set(files) == {".md", ".svg", ".jsonl"}
    assert rows_after(SequenceStudyConfig.folder) == before  # where nobody has measured yet
    assert files == {path.suffix: path.read_bytes() for path in tmp_path.glob("page.*")}
    write_rows(tmp_path / "there", "gru", shift=2.0)
    write_rows(tmp_path / "there", "cfc", shift=-1.0, searches=((4, 2),))  # not as many seeds: not yet
    after = rows_after(tmp_path / "there")
    assert after["LSTM"] == before["LSTM"] and after["CfC"] == before["CfC"]
    assert after["GRU"].endswith("**+2 (+2 to +2)** |")
    write_rows(tmp_path / "there", "cfc", shift=-1.0)
    assert rows_after(tmp_path / "there")["CfC"].endswith("**-1 (-1 to -1)** |")
    told = json.loads(page.with_suffix(".jsonl").read_text().splitlines()[0])
    wrong = [told | {"rows": rows} for rows in ([], [{}], {}, None, 3)] + [told | {"effort": one} for one in ({}, None)]
    wrong += [{name: value for name, value in told.items() if name != without} for without in told]
    for damaged in ("{", "[]\n", *map(json.dumps, wrong)):
        page.with_suffix(".jsonl").write_text(damaged)
        with pytest.raises(UserError, match=r"page\.jsonl is damaged: restore it"):
            rows_after(tmp_path / "there")


def test_a_cell_that_diverged_is_last_and_compared_with_nothing(tmp_path):
    write_rows(tmp_path, "lstm")
    write_rows(tmp_path, "cfc", shift=1.0)
    for cell in ("ltc", "gru"):
        write_rows(tmp_path, cell, shift=float("nan"))
    page, figure = page_of(tmp_path)
    table = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")]
    assert table[2:6] == ["| LSTM", "| CfC", "| LTC", "| GRU"]
    assert "| rul, FD001 | CfC | LSTM | +1 (+1 to +1) | worse |" in page
    assert "LTC (rul" not in page and "GRU (rul" not in page and figure.count("<circle") == 6


def test_cells_that_were_given_less_are_told_and_not_compared(tmp_path):
    write_rows(tmp_path, "lstm")
    write_rows(tmp_path, "cfc", shift=1.0, rows=64, epochs=1)
    write_rows(tmp_path, "gru", shift=1.0, searches=((4, 3), (8, 1)))  # the longer search has not come far
    write_rows(tmp_path, "ltc", shift=1.0, searches=((4, 1),))
    write_rows(tmp_path, "rnn", shift=1.0, data="others")
    page = page_of(tmp_path)[0]
    rows = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert "| 4, rows 64, epochs 1 |" in rows["CfC"] and rows["CfC"].endswith("|  |")
    assert "| 15.1 (14.85 to 15.35) |" in rows["GRU"] and "**+1 (+1 to +1)**" in rows["GRU"]
    assert "| LTC | 15 |" in rows["LTC"] and rows["LTC"].endswith("|  |")
    assert "| 4 | " in rows["RNN"] and rows["RNN"].endswith("|  |")


@pytest.mark.parametrize("line", ["{}", "null", '{"kind": "seed"}'])
def test_a_line_that_is_no_row_is_told(tmp_path, line):
    words = ["rul", "--cell", "gru", "--trials", "1", "--seeds", "1"]
    run_main(tmp_path, *words)
    path = tmp_path / "rul" / "FD001" / "gru" / "results.jsonl"
    path.write_text(path.read_text() + line + "\n")
    for again in (lambda: run_main(tmp_path, *words), lambda: page_of(tmp_path)):
        with pytest.raises(UserError, match=r"results\.jsonl is damaged"):
            again()


def test_rows_that_another_process_wrote_in_the_meantime_stay(tmp_path):
    first, second = (CellStudy(TASKS["rul"], "FD001", "gru", tmp_path, seeds, 1, 1, 1, 0) for seeds in (1, 2))
    for study in (first, second):  # both were made before either began
        run_study([study], LocalEngine(), lambda study, row: None)
    rows = rows_of(tmp_path, "rul", "FD001", "gru")
    assert [(row["kind"], row["seed"]) for row in rows] == [("trial", 1000), ("seed", 0), ("seed", 1)]


def test_all_leaves_out_tasks_without_data_and_names_them(tmp_path, monkeypatch, capsys):
    def missing(protocol, fold):
        raise UserError("not there: get it from the moon")

    for name, task in TASKS.items():
        if name not in ("rul", "imputation"):
            monkeypatch.setitem(TASKS, name, replace(task, load=missing))
    run_main(tmp_path, "all", "--cell", "gru", "gru", "--trials", "1", "--seeds", "1")
    told = " ".join(capsys.readouterr().out.split())
    assert "xor is left out: not there: get it from the moon" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imputation", "rul"]


def test_data_without_a_sequence_for_validation_are_told(tmp_path, monkeypatch):
    def short(protocol, fold):
        data = made_up(TASKS["rul"])
        return data._replace(validation=SequenceSet(*(array[:0] for array in data.validation)))

    monkeypatch.setitem(TASKS, "rul", replace(TASKS["rul"], load=short))
    with pytest.raises(UserError, match="the data of rul have no sequence for validation"):
        run_main(tmp_path, "rul", "--cell", "gru", "--trials", "1", "--seeds", "1")


def test_a_process_of_ray_is_sent_the_task_and_the_cell_that_a_program_has_entered(tmp_path):
    name, (rows, answer) = "mine", (made_up(TASKS["rul"]), 3.0)
    mine = replace(TASKS["rul"], name=name, load=lambda protocol, fold: rows, metrics={"rmse": lambda *_: answer})
    own = replace(CELLS["gru"], title="One of my own")
    sent = cloudpickle.loads(cloudpickle.dumps((mine, own)))  # as Ray does it
    job = Job(name, "FD001", "own", TASKS["rul"].recipe, 0, 1, True, tmp_path, 0)
    try:
        assert run_given(job, *sent)["test"] == {"rmse": 3.0}
    finally:
        del TASKS[name], CELLS["own"]
