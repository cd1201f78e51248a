"""``hybrid``: trains as ``lm`` does, reads or drives and remembers, goes on where it stopped, drafts without loss."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from liquid_control.hybrid import main as hybrid
from liquid_control.models.language_model import load_language_model
from liquid_control.models.memory_file import load_memories
from liquid_control.report import remembered_reading
from liquid_control.support.errors import UserError
from policies.driver import Driver, DriverConfig, load_driver

SHIPPED = Path(__file__).parents[2] / "checkpoints/CarRacing-v3"

WORDS = (
    "--steps 40 --batch 4 --time 16 --validate-every 20 --width 16 --blocks 2 --heads 2 --window 8 --workers 1".split()
)
RUN = """--block 128 --stretch 32 --save-every 2 --units 4 --key-size 8 --budget-bytes 60000 --audited 0.2 --rise 0.008
--wrong 0.6 --risk 0.3 --low 0.8 --high 0.9 --device cpu""".split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 12)
    (folder / "other.txt").write_text("0123 4567 89; " * 20)
    hybrid(["train", "--text", str(folder / "text.txt"), "--run", str(folder / "run"), "--device", "cpu", *WORDS])
    return folder


def reading(trained, path, *more, texts=("text", "text", "other")):
    named = [str(trained / f"{name}.txt") for name in texts]
    return ["run", str(trained / "run/best"), "--text", *named, "--run", str(path), *RUN, *map(str, more)]


@pytest.fixture(scope="module")
def read(trained):
    """The folder of a reading that ended."""
    hybrid(reading(trained, trained / "read", "--keep", trained / "kept.safetensors"))
    return trained / "read"


def rows_of(path):
    head, *rows = [json.loads(line) for line in (path / "rows.jsonl").read_text().splitlines()]
    return head, rows


def timeless(row):
    """A row without what a clock said."""
    return {
        name: [timeless(part) for part in value] if name == "layers" else timeless(value) if name == "sample" else value
        for name, value in row.items()
        if "seconds" not in name
    }


def test_it_trains_by_the_job_of_lm_with_its_own_defaults(trained):
    config = yaml.safe_load((trained / "run/config.yaml").read_text())
    assert config["agent"] == "language" and config["pattern"] == ["attention"] and config["tokenizer"] == "bytes"
    assert config["expansion"] == 4.0 and config["width"] == 16
    assert load_language_model(trained / "run/best")[0].config.pattern == ("attention",)
    hybrid(["train", "--resume", str(trained / "run")])  # it has ended, and can be asked again


def test_rows_tell_of_every_block_and_layer(read):
    head, rows = rows_of(read)
    assert list(head["texts"]) == ["text", "text #2", "other"] and head["begun"] == 0
    assert rows[-1]["tokens"] == head["length"] - 1 == sum(row["count"] for row in rows)
    for row in rows:
        assert row["bits_per_byte"] > 0 and row["sample"]["whole_bits_per_byte"] > 0 and len(row["layers"]) == 2
        assert 0 <= row["sample"]["equal"] <= 1 and row["sample"]["tokens"] <= 32
        for layer in row["layers"]:
            assert layer["full"] == row["count"] * 3 * 4 * 16**2 and 0 <= layer["skipped"] + layer["audited"] <= 1
            assert layer["saved"] == pytest.approx(layer["skipped"] * layer["full"] - layer["spent"])
            assert layer["skipped"] - 1e-9 <= layer["shared"] <= 1 + 1e-9
            assert layer["spent"] > 0 and layer["learned"] > 0 and layer["seconds_learning"] > 0
    assert rows[0]["layers"][0]["influence"] < 1
    assert max(layer["skipped"] for row in rows for layer in row["layers"]) > 0.1


def test_the_command_for_a_page_can_be_pasted(trained, tmp_path, capsys):
    hybrid(reading(trained, tmp_path / "my reading", texts=("other",)))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("as a page: ")]
    *_, word, folder = shlex.split(line)
    hybrid([word, folder])
    assert (tmp_path / "my reading" / "report.html").exists()


def test_a_reading_that_was_stopped_goes_on_to_the_same_rows(trained, read, tmp_path, monkeypatch, capsys):
    block, calls = remembered_reading.read_block, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return block(*arguments)

    monkeypatch.setattr(remembered_reading, "read_block", stop)
    with pytest.raises(KeyboardInterrupt):
        hybrid(reading(trained, tmp_path / "again"))
    assert "stopped. The same command goes on" in capsys.readouterr().out and len(rows_of(tmp_path / "again")[1]) == 5
    hybrid(reading(trained, tmp_path / "again"))
    assert calls[6][3] == 4 * 128  # the memory was written after four blocks
    one, other = rows_of(read)[1], rows_of(tmp_path / "again")[1]
    assert [timeless(row) for row in one] == [timeless(row) for row in other]
    for name in ("memory.safetensors",):
        model, _ = load_language_model(trained / "run/best")
        mine, theirs = (load_memories(path / name, model)[0] for path in (read, tmp_path / "again"))
        assert all(
            bool((tensor == theirs[layer].cube.tensors[key]).all())
            for layer, part in enumerate(mine)
            for key, tensor in part.cube.tensors.items()
        )
    begun = len(calls)
    hybrid(reading(trained, tmp_path / "again"))  # nothing is left to read
    assert len(calls) == begun
    with pytest.raises(UserError, match=r"a reading with another block: block is 128, not 64\. Give the same"):
        hybrid([*reading(trained, tmp_path / "again"), "--block", "64"])


def test_a_memory_that_was_kept_knows_at_once(trained, read, tmp_path):
    hybrid(reading(trained, tmp_path, "--memory", trained / "kept.safetensors", "--learn", False, texts=("text",)))
    head, rows = rows_of(tmp_path)
    assert head["begun"] == rows_of(read)[0]["length"] - 1
    fresh = rows_of(read)[1]
    assert rows[0]["layers"][0]["hits"] > fresh[0]["layers"][0]["hits"] and rows[0]["layers"][0]["learned"] == 0
    hybrid(reading(trained, tmp_path, "--memory", trained / "kept.safetensors", "--learn", False, texts=("text",)))


def test_a_memory_that_grows_is_kept_where_it_came_from(trained, read, tmp_path):
    memory = tmp_path / "grows.safetensors"
    shutil.copy(trained / "kept.safetensors", memory)
    words = reading(trained, tmp_path / "a", "--memory", memory, "--keep", memory, texts=("text",))
    hybrid(words)
    rows, grown = rows_of(tmp_path / "a"), memory.read_bytes()
    assert grown != (trained / "kept.safetensors").read_bytes()
    hybrid(words)  # it has ended, and says so
    assert rows_of(tmp_path / "a") == rows and memory.read_bytes() == grown
    shutil.copy(trained / "kept.safetensors", memory)  # as if it was killed before it kept its memory
    hybrid(words)
    assert rows_of(tmp_path / "a") == rows and memory.read_bytes() != (trained / "kept.safetensors").read_bytes()
    other = reading(trained, tmp_path / "b", "--memory", memory, "--keep", memory, texts=("other",))
    hybrid(other)  # it goes on with another text
    assert rows_of(tmp_path / "b")[0]["begun"] == rows[0]["begun"] + rows[0]["length"] - 1
    with pytest.raises(
        UserError, match=r"a reading with another memory, begun: memory is .{12}…, not .{12}…; begun is"
    ):
        hybrid(words)


@pytest.mark.parametrize("option", ["--keep", "--memory"])
def test_a_reading_keeps_its_own_memory_to_itself(trained, read, option, monkeypatch):
    before = (read / "memory.safetensors").read_bytes()
    monkeypatch.chdir(read.parent)
    with pytest.raises(UserError, match=rf"{option} read/memory.safetensors is the file in which this reading keeps"):
        hybrid(reading(trained, read, option, "read/memory.safetensors"))
    assert (read / "memory.safetensors").read_bytes() == before


@pytest.mark.parametrize("which", ["another reading's", "a checkpoint's"])
def test_a_memory_is_kept_over_nothing_but_one_that_was_kept(trained, read, driver, tmp_path, which):
    (weights,) = (trained / "run" / "best").glob("weights-*.safetensors")
    file = tmp_path / "theirs.safetensors"
    shutil.copy(read / "memory.safetensors" if which == "another reading's" else weights, file)
    before = file.read_bytes()
    memory = ["--memory", file] if which == "another reading's" else []
    for words in (
        reading(trained, tmp_path / "run", *memory, "--keep", file, texts=("text",)),
        ["drive", str(driver), "--steps", "9", "--keep", str(file)],
    ):
        with pytest.raises(
            UserError, match=r"theirs\.safetensors is there and no memory that --keep wrote: name another"
        ):
            hybrid(words)
    assert file.read_bytes() == before and not (tmp_path / "run").exists()


def test_what_is_refused_leaves_no_folder(trained, driver, tmp_path):
    best, text = str(trained / "run/best"), str(trained / "text.txt")
    rules = ["--low", "0.3", "--high", "0.2"]
    keep = ["--keep", str(tmp_path / "kept" / "memory.safetensors")]
    for words in (
        ["run", best, "--text", text, "--run", str(tmp_path / "run"), *rules, *keep],
        ["drive", str(driver), "--json", str(tmp_path / "json" / "laps.json"), *rules, *keep],
    ):
        with pytest.raises(UserError, match="low must not be above high"):
            hybrid(words)
    assert list(tmp_path.iterdir()) == []


def test_drafts_say_the_same_text_and_are_counted(trained, read, capsys):
    words = ["generate", str(trained / "run/best"), str(read), "--prompt", "the quick", "--tokens", "60"]
    hybrid([*words, "--temperature", "0", "--device", "cpu"])
    output = capsys.readouterr().out
    assert output.startswith("the quick") and "times as fast; the text is equal" in output
    told = json.loads((read / "lossless.json").read_text())
    assert told["equal"] is True and 0 < told["acceptance"] <= 1 and told["tokens"] <= 60
    assert told["speed"] == pytest.approx(told["seconds_alone"] / told["seconds"])
    words[2] = str(trained / "kept.safetensors")
    hybrid([*words, "--draft", "sure", "--device", "cpu"])
    assert "times as fast\n" in capsys.readouterr().out


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("driver")
    options = {"units": 16, "blocks": 2, "heads": 2, "window": 4, "neurons": 6}
    Driver(DriverConfig(policy="hybrid", options=options)).save(folder)
    return folder


def test_laps_are_driven_with_a_memory_that_is_kept(driver, tmp_path, capsys):
    words = ["drive", str(driver), "--steps", "60", "--units", "4", "--budget-bytes", "200000", "--rise", "0.1"]
    kept = tmp_path / "kept.safetensors"
    hybrid([*words, "--tracks", "5", "5", "6", "--json", str(tmp_path / "laps.json"), "--keep", str(kept)])
    assert "alone" in capsys.readouterr().out
    laps = json.loads((tmp_path / "laps.json").read_text())
    assert [(lap["track"], lap["remembers"]) for lap in laps] == [
        (5, False), (5, True), (5, True), (6, False), (6, True),
    ]  # fmt: skip
    assert all(lap["steps"] == 60 and len(lap["layers"]) == 2 * lap["remembers"] for lap in laps)
    parts, reading = load_memories(kept, load_driver(driver))
    assert reading is None and parts[0].inputs == 180 and len(parts[0].cube)
    hybrid([*words, "--tracks", "5", "--memory", str(kept), "--learn", "False", "--json", str(tmp_path / "b.json")])
    again = json.loads((tmp_path / "b.json").read_text())[1]
    assert again["skipped"] > laps[1]["skipped"]


def test_a_report_is_one_page_and_words(trained, read, capsys):
    (read / "lossless.json").unlink(missing_ok=True)
    hybrid(["report", str(read)])
    page, words = (read / "report.html").read_text(), (read / "report.md").read_text()
    assert page.startswith("<!doctype html>") and "{{" not in page and "://" not in page and "lossless" not in page
    for title in (
        "Influence earned",
        "Mean influence",
        "Hits",
        "Mean relative error",
        "Skipped",
        "Operations saved",
        "Milliseconds",
        "KL",
    ):
        assert f"<h3>{title}" in page
    assert page.count("<svg") > 20 and "text #2" in page and "| text #2 |" in words
    drafts = {"acceptance": 0.5, "ahead": 4, "speed": 0.7, "tokens": 60, "equal": True}
    (read / "lossless.json").write_text(json.dumps(drafts))
    hybrid(["report", str(read)])
    assert "50% of the drafted tokens accepted, 4 ahead, 0.70 times as fast" in (read / "report.md").read_text()


def test_what_makes_no_sense_is_one_line(trained, read, driver, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nul.txt").write_bytes(b"the\0fox")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "one.txt").write_text("x")
    (tmp_path / "random.safetensors").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "rows.jsonl").write_text("{}\n[")
    best, text = str(trained / "run/best"), str(trained / "text.txt")
    for words, wanted in (
        (["rnu"], "unknown word 'rnu' after hybrid.*'run'"),
        (["run", str(tmp_path), "--text", text], "is no checkpoint"),
        (["run", best, "--text", str(tmp_path / "nul.txt")], "it holds NUL"),
        (
            ["run", best, "--text", str(tmp_path / "empty.txt"), "--run", str(tmp_path / "a")],
            "there is nothing to read in .*empty.txt: it is empty",
        ),
        (["run", best, "--text", text, str(tmp_path / "empty.txt")], "there is nothing to read in .*empty.txt"),
        (["run", best, "--text", str(tmp_path / "one.txt")], "the text 'one' has 1 tokens, too few to be read"),
        (["run", best, "--text", text, "--run", str(tmp_path / "b"), "--budget-bytes", "99"], "are too few for cubes"),
        (["run", best, "--text", text, "--run", str(tmp_path)], "is damaged"),
        (["run", best, "--text", text, "--memory", str(tmp_path / "random.safetensors")], "is damaged"),
        (["run", best, "--text", text, "--low", "0.9"], "low must not be above high"),
        (["run", best, "--run", str(tmp_path / "c")], "there is nothing to read: give texts with --text"),
        (["run", best, "--text", text, "--keep", str(tmp_path / "a.txt")], "should be a .safetensors file"),
        (["generate", best, str(tmp_path / "nowhere")], "there is no such file"),
        (["generate", best, str(read), "--prompt", ""], "--prompt is empty"),
        (["drive", best], "not a driver"),
        (["drive", str(driver), "--tracks"], "--tracks must be 1 or more values"),
        (["train", "--text", text, "--pattern"], "--pattern must be 1 or more values"),
        (["drive", str(driver), "--env", "CartPole-v1"], "CartPole-v1"),
        (["drive", str(SHIPPED / "cfc"), "--steps", "9"], "has no feed-forward parts that could be remembered"),
        (["drive", str(driver), "--memory", str(trained / "kept.safetensors")], "holds no memory of this model"),
        (["report", str(tmp_path / "nowhere")], "Give the folder of a hybrid run"),
        (["report", str(tmp_path)], "is damaged"),
    ):
        with pytest.raises(UserError, match=wanted):
            hybrid(words)


def test_without_a_word_it_lists_what_there_is(capsys):
    hybrid([])
    output = capsys.readouterr().out
    assert all(f"hybrid {word}" in output for word in ("train", "run", "drive", "generate", "report"))
