"""Models and data sets on the hub: the real client against a stand-in, and what is loaded again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard, ModelCard, constants, snapshot_download
from PIL import Image
from typer.testing import CliRunner, Result

from hub_server import TOKEN, USER, Hub, serving_hub
from reground.api import Grounder
from reground.cli import app
from reground.data import arrow
from reground.data.images import load
from reground.data.source import read_dataset, save_dataset
from reground.errors import ConfigError, DataError, EndpointError
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target
from reground.hub.data_set import Part, files_of, read_parts
from reground.hub.repository import Repository
from reground.io import parse_yaml
from reground.runs import RunDir
from reground.training.run import train
from worlds import World

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in; the client of this process asks it, as Anna."""
    with serving_hub() as running:
        addresses = f"{running.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", addresses)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its storage is a service apart
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def failure(*arguments: object) -> str:
    """The one sentence of a command that fails."""
    error = run(*arguments).exception
    assert isinstance(error, EndpointError | ConfigError | DataError), error
    assert "\n" not in str(error) and TOKEN not in str(error)
    return str(error)


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train(world.config("sft", "steps=3"), tmp_path_factory.mktemp("hub") / "cells")


@pytest.fixture(scope="module")
def measured(trained: RunDir) -> Path:
    folder = trained.path.with_name("results")
    evaluate(folder, Question(model=str(trained.path), data="synth:referring", seed=5, limit=4))
    return folder


LOADING = """
import json, sys
from reground.api import Grounder
name, picture, question = sys.argv[1:]
found = Grounder.from_pretrained(name).ground([picture], question)
print(json.dumps([found.text, [box.xyxy for box in found.answer.boxes]]))
"""


def loaded(name: str, picture: Path, **environment: str) -> Any:
    """What the model answers in a process of its own, which reads its settings as it starts."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | environment
    command = [sys.executable, "-c", LOADING, name, str(picture), "the red circle"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_pushed_model_is_loaded_again_and_offline(
    hub: Hub, trained: RunDir, measured: Path, tmp_path: Path
) -> None:
    out, picture = tmp_path / "model", tmp_path / "photo.png"
    Image.effect_noise((168, 112), 90).convert("RGB").save(picture)
    done = run("export", trained.path, "--out", out, "--dtype", "float32", "--license", "mit",
               "--metrics", measured, "--push", "anna/cells")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.output.endswith(f"{hub.url}/anna/cells\n")
    repo = hub.repos["anna/cells"]
    assert len(repo.commits) == 2, "the repository was made, then filled at once"
    assert {path.name: path.read_bytes() for path in out.iterdir()}.items() <= repo.files.items()
    cache = {"HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": ""}
    online = loaded("anna/cells", picture, HF_ENDPOINT=hub.url, **cache)
    here = Grounder.from_pretrained(str(out)).ground([picture], "the red circle")
    assert online == [here.text, [[*box.xyxy] for box in here.answer.boxes]]
    assert (tmp_path / "cache/hub/models--anna--cells/refs/main").read_text() == repo.sha
    asked = len(hub.asked)
    assert loaded("anna/cells", picture, HF_HUB_OFFLINE="1", HF_ENDPOINT=hub.url, **cache) == online
    assert len(hub.asked) == asked


def test_the_card_says_what_the_model_is(
    trained: RunDir, measured: Path, tmp_path: Path, world: World
) -> None:
    out = tmp_path / "cells"
    assert run("export", trained.path, "--out", out, "--metrics", measured).exit_code == 0
    card = ModelCard.load(out / "README.md")
    report = json.loads((measured / "report.json").read_text())
    assert card.data.library_name == "transformers" and card.data.license is None
    accuracy, iou = card.data.eval_results
    assert (accuracy.metric_type, accuracy.metric_value) == ("acc@0.5", report["acc@0.5"])
    assert accuracy.metric_args["n"] == 4 and "synth:referring" in accuracy.dataset_name
    assert iou.metric_args["interval_95"] == report["mean_iou_interval"]
    assert str(world.taught.parent) not in card.content, "folders of this machine are nobody's"
    made = json.loads((trained.path / "made.json").read_text())
    for said in (made["digest"], made["versions"]["torch"], 'Grounder.from_pretrained("cells")'):
        assert said in card.content
    settings = re.search(r"```yaml\n(.*?)```", card.text, re.DOTALL)
    assert settings and parse_yaml(settings[1], "card")["steps"] == 3


def test_the_lines_of_the_card_answer_as_the_grounder_does(
    trained: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("torchvision", reason="AutoProcessor needs torchvision")
    assert run("export", trained.path, "--out", tmp_path / "m", "--dtype", "float32").exit_code == 0
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((168, 112), 90).convert("RGB").save("photo.jpg")
    ours, plain = re.findall(r"```python\n(.*?)```", Path("m/README.md").read_text(), re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(ours, namespace)
    capsys.readouterr()
    exec(plain, {})
    assert capsys.readouterr().out.strip() == namespace["grounding"].text.strip()


def rows(folder: Path) -> Path:
    """Rows about a view of a photo, and about another photo of the same name."""
    refs = []
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (40, 30), "red" if name == "a" else "blue").save(folder / name / "1.png")
        refs.append(ImageRef(str(folder / name / "1.png"), 40, 30))
    view = ImageRef(f"{refs[0].path}#view=10,0,40,30,h", 30, 30)
    samples = [
        Sample(f"s{n}", (ref,), "the dot", (Target(0, Box(2, 3, 20, 21, ref.frame)),), "cells")
        for n, ref in enumerate((view, *refs))
    ]
    save_dataset(folder / "cells.train.jsonl", samples[:2])
    save_dataset(folder / "cells.val.jsonl", samples[2:])
    (folder / "cells.rejected.jsonl").write_text("{}\n")
    return folder


def test_a_pushed_data_set_is_the_same_elsewhere(hub: Hub, tmp_path: Path) -> None:
    folder = rows(tmp_path / "own")
    done = run("data", "push", folder, "lab/cells", "--license", "cc0-1.0", "--private")
    assert done.exit_code == 0, done.output
    repo = hub.repos["datasets/lab/cells"]
    assert repo.private and len(repo.commits) == 2
    assert str(tmp_path).encode() not in b"".join(repo.files.values())
    copy = Path(snapshot_download("lab/cells", repo_type="dataset", cache_dir=tmp_path / "cache"))
    for name, number in (("train", 2), ("val", 1)):
        here = read_dataset(str(folder / f"cells.{name}.jsonl"))
        kept = read_dataset(f"datasets:{copy}@{name}")
        streamed = read_dataset(f"hub:{copy}@{name}", limit=number)
        assert len(here) == len(kept) == number
        for one, *others in zip(here, kept, streamed, strict=True):
            for other in others:
                assert one.to_json() | {"images": 0} == other.to_json() | {"images": 0}
                assert load(one.images[0]).tobytes() == load(other.images[0]).tobytes()
    card = DatasetCard.load(copy / "README.md")
    assert (card.data.license, card.data.size_categories) == ("cc0-1.0", ["n<1K"])
    assert [each["split"] for each in card.data.configs[0]["data_files"]] == ["train", "val"]
    assert "| `train` | 2 | 2 | 2 | 0 | 0 |" in card.text


def test_a_large_data_set_is_pushed_in_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow, "PARQUET_BYTES", 4_000)
    (scene,) = read_dataset("synth:referring", limit=1)
    samples = [replace(scene, id=f"s{number}") for number in range(9)]
    with files_of([Part("train", samples)], name="a/b", license=None) as files:
        paths = [path for path in files.values() if isinstance(path, Path)]
        assert 1 < len(paths) < 9
        (tmp_path / "data").mkdir()
        for path in paths:
            (tmp_path / "data" / path.name).write_bytes(path.read_bytes())
    back = read_dataset(f"datasets:{tmp_path / 'data'}")
    assert [each.id for each in back] == [each.id for each in samples]


def _no_token(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("HF_TOKEN")


def _another_token(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("HF_TOKEN", f"{TOKEN}2")


def _reads_only(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    hub.user = USER | {"auth": {"accessToken": {"role": "read"}}}


def _full(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    hub.add("datasets/anna/new", {"x.txt": b"x"})


def _public(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    hub.add("datasets/anna/new")


def _offline(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(constants, "HF_HUB_OFFLINE", True)


def _gone(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def refusing(pattern: str, status: int, words: str) -> Callable[[Hub, pytest.MonkeyPatch], None]:
    return lambda hub, patch: hub.refuses.update({pattern: (status, words)})


MISTAKES = {
    "no token": (_no_token, "HF_TOKEN is not set; put a token"),
    "another's token": (_another_token, "the hub says 401.*: the token in HF_TOKEN is not known"),
    "a token that reads": (_reads_only, "may only read; make one"),
    "full": (_full, "it holds 1 files already, x.txt first; name a new repository"),
    "public": (_public, "it is there and public"),
    "offline": (_offline, "HF_HUB_OFFLINE is set"),
    "gone": (_gone, "the hub cannot be reached .*see to the network"),
    "may not create": (refusing("repos/create", 403, "No rights"), "403 .*may not write there"),
    "may not commit": (refusing("/commit/", 403, "Forbidden"), "403 .*may not write there"),
    "too large": (refusing("PUT /lfs", 413, "Too large"), "413 .*that is more than it takes"),
    "ill": (refusing("/commit/", 500, "Oops"), r"500 \(Oops\): it failed; try again later"),
    "words with the token": (refusing("whoami", 400, f"bad {TOKEN}"), r"400 \(bad \(the token\)\)"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_push_that_fails_is_one_sentence_and_leaves_nothing(
    name: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, problem = MISTAKES[name]
    prepare(hub, monkeypatch)
    before = {key: dict(repo.files) for key, repo in hub.repos.items()}
    said = failure("data", "push", rows(tmp_path), "anna/new", "--private")
    assert re.search(problem, said), said
    for key, repo in hub.repos.items():
        assert repo.files == before.get(key, {".gitattributes": repo.files[".gitattributes"]})
    if not before and prepare is not _offline:  # and the same command can be given again
        hub.refuses.clear()
        monkeypatch.undo()
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        hub.user = USER
        assert run("data", "push", tmp_path, "anna/new", "--private").exit_code == 0


@pytest.mark.parametrize(
    "name",
    ["cells", "anna/", "a/b/c", "anna/ce lls", "../x", "anna/x--y", "http://h/x", "a/.b", "é/x"],
)
def test_a_malformed_name_is_not_asked_for(name: str, hub: Hub) -> None:
    with pytest.raises(EndpointError, match="expected OWNER/NAME"):
        Repository.open(name, kind="model", private=False)
    assert hub.asked == []


@pytest.mark.parametrize("owner", ["bert", "museum"])
def test_another_owners_repository_is_refused_first(owner: str, hub: Hub, tmp_path: Path) -> None:
    said = failure("export", tmp_path, "--out", tmp_path / "m", "--push", f"{owner}/cells")
    assert f"may not write for {owner}; known are anna, lab" in said


def test_what_cannot_be_named_is_one_sentence(
    trained: RunDir, measured: Path, tmp_path: Path, world: World
) -> None:
    out = ("--out", tmp_path / "m")
    assert "--push uploads" in failure("export", trained.path, *out, "--private")
    evaluate(tmp_path / "other", Question(model=str(world.taught), data="synth:referring", limit=1))
    others = failure("export", trained.path, *out, "--metrics", tmp_path / "other")
    assert "has other weights than" in others and not (tmp_path / "m").exists()
    with pytest.raises(DataError, match="would be the split 'train'"):
        folder = rows(tmp_path / "own")
        (folder / "train.jsonl").write_bytes((folder / "cells.train.jsonl").read_bytes())
        read_parts(folder)
    with pytest.raises(DataError, match=r"expected a \.jsonl"):
        read_parts(tmp_path)
    parts = read_parts(tmp_path / "own" / "cells.val.jsonl")
    (tmp_path / "own/b/1.png").unlink()
    with (
        pytest.raises(DataError, match=r"1\.png"),
        files_of(parts, name="anna/x", license=None),
    ):
        pass
