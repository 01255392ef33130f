from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from driver import reground
from made import run_of
from reground import cli
from reground.errors import DataError
from reground.evaluation.records import Prediction, write_predictions
from reground.grounding.boxes import Box
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import ImageRef, Sample, Target, read_jsonl, write_jsonl
from reground.recipes import recipe

ROOT = Path(__file__).parents[1]


def raising(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of the command line when a verb raises ``error``."""

    def verb() -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(cli.app, "registered_commands", [])
        patch.setattr(cli.app, "registered_groups", [])
        cli.app.command("verb")(verb)
        patch.setattr(sys, "argv", ["reground", "verb"])
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().err


def sample(path: Path, name: str, box: tuple[float, float, float, float]) -> Sample:
    image = ImageRef(str(path), 100, 80)
    return Sample(name, (image,), "the cup", (Target(0, Box(*box, image.frame)),), "referring")


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    Image.new("RGB", (100, 80), "navy").save(tmp_path / "photo.png")
    photo = tmp_path / "photo.png"
    return [sample(photo, "hit", (10, 8, 50, 40)), sample(photo, "miss", (60, 48, 90, 72))]


@pytest.fixture
def predictions(tmp_path: Path, samples: list[Sample]) -> Path:
    """A folder as `reground eval` writes it: one right box, one wrong one, in 0-1000."""
    run = run_of(samples, model="scripted", family="qwen2_vl", protocol="direct", data="test.jsonl")
    text = "<|box_start|>(100,100),(500,500)<|box_end|>"
    sizes = (EncodedSize(100, 80, 112, 84),)
    rows = [Prediction(row, text, sizes, num_tokens=9, finish="stop") for row in samples]
    write_predictions(tmp_path / "predictions", rows, run=run)
    return tmp_path / "predictions"


def test_help_teaches_with_examples() -> None:
    text = reground("--help").stdout
    assert "Examples:" in text
    assert 'reground predict photo.jpg "the cup left of the laptop"' in text
    for verb in ("data", "score", "report", "tool"):
        assert re.search(rf"^  {verb} ", text, re.MULTILINE)


def test_every_verb_in_the_examples_exists() -> None:
    text = reground("--help").stdout
    shown = set(re.findall(r"^ +reground (\w+)", text, re.MULTILINE))
    listed = set(re.findall(r"^  (\w+)  ", text.partition("Commands:")[2], re.MULTILINE))
    assert shown <= listed


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "convert"],
        ["data", "validate"],
        ["data", "show"],
        ["benchmarks"],
        ["tool", "run"],
        ["score"],
        ["report"],
        ["compare"],
    ],
)
def test_the_help_of_a_verb_has_an_example(arguments: list[str]) -> None:
    text = reground(*arguments, "--help").stdout
    assert re.search(rf"Examples?:\n +reground {' '.join(arguments)} \S", text)


def test_recipes_named_in_help_and_pages_exist() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "src/reground/cli").glob("*.py")]
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    texts += [path.read_text(encoding="utf-8") for path in pages]
    named = {
        name for text in texts for name in re.findall(r"(?<!benchmarks/)configs/[\w/]+\.yaml", text)
    }
    in_help = {
        name
        for text in texts
        for name in re.findall(r"reground (?:train|headroom|teach run) (\w+(?:/\w+)+)", text)
    } - {"runs/mine"}
    assert min(len(named), len(in_help)) >= 3
    assert all(recipe(name).is_file() for name in named | in_help)


def test_help_loads_nothing_heavy() -> None:
    """Which is why it answers at once."""
    heavy = ("torch", "transformers", "pydantic", "matplotlib", "PIL", "numpy", "scipy")
    code = f"import sys, reground.cli; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_version_is_printed() -> None:
    assert re.fullmatch(r"reground \d+\.\d+\.\d+\n", reground("--version").stdout)


def test_an_unknown_verb_is_named_with_the_nearest() -> None:
    assert "'scor'" in reground("scor", code=2).stderr


def test_a_users_error_is_one_sentence(tmp_path: Path) -> None:
    done = reground("score", tmp_path, "--out", tmp_path, code=2)
    assert re.fullmatch(r"error: .*run\.json: no such file; expected .*\n", done.stderr)
    assert done.stdout == ""


def test_a_missing_option_is_an_error() -> None:
    assert "--out" in reground("score", "somewhere", code=2).stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("a.jsonl: empty"), 2, "error: a.jsonl: empty (help: #data)\n"),
        (
            DataError("a.jpg: no image", help="images-that-cannot-be-used"),
            2,
            "error: a.jpg: no image (help: #images-that-cannot-be-used)\n",
        ),
        (
            PermissionError(13, "Permission denied", "out"),
            2,
            "error: out: Permission denied (help: #no-right-to-write)\n",
        ),
        (
            OSError(28, "No space left on device"),
            2,
            "error: No space left on device (help: #no-space-left)\n",
        ),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            2,
            "error: torch is not installed; this needs pip install 'reground[train]' "
            "(help: #not-installed)\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_a_user_can_mend_has_no_traceback(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = message.replace("(help: ", "(help: docs/troubleshooting.md")
    assert raising(error, capsys) == (code, whole)


@pytest.mark.parametrize(
    "bug",
    [
        ZeroDivisionError(),
        RuntimeError("ours"),
        ModuleNotFoundError("No module named 'reground.x'", name="reground.x"),
        FileNotFoundError(2, "No such file or directory", "ours"),
    ],
)
def test_a_bug_of_ours_keeps_its_traceback(
    bug: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(bug)):
        raising(bug, capsys)


def test_an_interrupted_command_exits_with_130() -> None:
    program = (
        "import os, signal, sys, threading\n"
        "from reground import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
        "def verb():\n"
        "    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    threading.Event().wait(30)\n"
        "cli.app.command('verb')(verb)\n"
        "sys.argv[1:] = ['verb']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


VOC = """<annotation><filename>photo.png</filename>
<size><width>100</width><height>80</height><depth>3</depth></size>
<object><name>cup</name><bndbox><xmin>10</xmin><ymin>8</ymin><xmax>50</xmax><ymax>40</ymax></bndbox>
</object></annotation>"""


def test_data_convert_writes_samples(tmp_path: Path, samples: list[Sample]) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "photo.xml").write_text(VOC)
    out = tmp_path / "train.jsonl"
    done = reground("data", "convert", "voc", tmp_path, "--images", tmp_path, "--out", out)
    converted = list(read_jsonl(out))
    written, read, *_ = done.stdout.splitlines()
    assert written == f"{out}: {len(converted)} samples"
    counted = "read 1 photos (1 asked about), 1 boxes (1 asked about), 1 classes"
    assert read == f"{counted}, {len(converted)} questions"
    assert {len(row.targets) for row in converted} == {1}
    assert {row.images[0].path for row in converted} == {samples[0].images[0].path}


def test_data_convert_lists_every_format() -> None:
    from reground.data.convert import FORMATS

    text = reground("data", "convert", "--help").stdout
    assert [name for name in FORMATS if not re.search(rf"\b{name}\b", text)] == []


def test_data_convert_knows_a_misspelt_format(tmp_path: Path) -> None:
    done = reground("data", "convert", "cocoa", tmp_path, "--out", tmp_path / "x", code=2)
    assert done.stderr.startswith("error: unknown format 'cocoa'; did you mean 'coco'? (help: ")


@pytest.mark.slow
def test_data_validate_says_what_it_set_aside(tmp_path: Path, samples: list[Sample]) -> None:
    broken = tmp_path / "broken.jsonl"
    gone = sample(Path("gone.png"), "gone", (1, 1, 9, 9))
    write_jsonl(broken, [*samples, gone])
    done = reground("data", "validate", broken, code=1)
    assert "2 of 3 rows are good\n  1 x missing image\n" in done.stdout
    assert "broken.quarantine.jsonl" in done.stdout
    clean = tmp_path / "clean.jsonl"
    reground("data", "validate", broken, "--out", clean)
    assert [row.id for row in read_jsonl(clean)] == ["hit", "miss"]
    said = reground("data", "validate", clean).stdout.splitlines()
    assert said[0] == f"{clean}: 2 of 2 rows are good"
    assert said[1].startswith("  doubtful: 1 of 1 photos are almost of one colour: ")


def test_data_show_draws(tmp_path: Path, samples: list[Sample]) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "sheet.png"
    write_jsonl(data, samples)
    assert reground("data", "show", data, "--out", out).stdout == f"{out}: 2 samples\n"
    small = Image.open(out).size
    reground("data", "show", "synth:referring", "--limit", 2, "--seed", 3, "--out", out)
    assert min(*small, *Image.open(out).size) > 100


def test_predictions_become_a_report(predictions: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    assert "2 scored" in reground("score", predictions, "--out", out).stdout
    shown = reground("report", out).stdout
    report = json.loads((out / "report.json").read_text())
    assert (report["n"], report["acc@0.5"]) == (2, 0.5)
    assert "50.0" in shown
    assert str(out / "report.html") in shown
    assert (out / "report.html").stat().st_size > 1000


@pytest.mark.slow
def test_runs_are_compared(predictions: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        reground("score", predictions, "--out", folder)
    shown = reground("compare", *folders, "--out", tmp_path / "out").stdout
    assert "| first  |" in shown and "A is first, B is second" in shown
    assert shown.endswith(f"{tmp_path / 'out' / 'table.html'}\n")
    reground("score", predictions, "--scorer", "mig_bench", "--out", folders[1])
    done = reground("compare", *folders, "--out", tmp_path / "out", code=2)
    assert re.fullmatch("error: scored by different rules: first .* second .*\n", done.stderr)


def test_scoring_and_reporting_need_no_torch(predictions: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules.update(torch=None, transformers=None)\n"
        "from reground import cli\n"
        "cli.main()\n"
    )
    for arguments in (["score", predictions, "--out", predictions], ["report", predictions]):
        subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True)
    assert (predictions / "report.md").is_file()
