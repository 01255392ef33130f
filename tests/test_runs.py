from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reground import io, provenance, runs
from reground.errors import RunError

CONFIG = "seed: 1\noptim:\n  lr: 0.1\n"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def log(run: runs.RunDir, steps: range) -> None:
    for step in steps:
        io.append_jsonl(run.metrics, {"step": step, "loss": 1 / step})
        io.append_jsonl(run.timings, {"step": step, "seconds": 0.5})
        io.append_jsonl(
            run.rollouts, *({"step": step, "index": index, "text": "é\n"} for index in range(3))
        )


def test_a_new_run_holds_its_config(tmp_path: Path) -> None:
    run = runs.start(tmp_path / "a" / "run", CONFIG)
    assert run.config.read_text() == CONFIG
    assert run.checkpoints.is_dir()


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    assert runs.start(tmp_path, CONFIG).config.exists()


@pytest.mark.parametrize("ours", [True, False])
def test_a_folder_with_files_is_refused_and_kept(tmp_path: Path, ours: bool) -> None:
    if ours:
        runs.start(tmp_path, CONFIG)
    (tmp_path / "notes.txt").write_text("mine")
    before = files(tmp_path)
    with pytest.raises(RunError, match="--resume" if ours else "files that are no run"):
        runs.start(tmp_path, CONFIG)
    assert files(tmp_path) == before


def test_clean_starts_a_run_anew(tmp_path: Path) -> None:
    run = runs.start(tmp_path, CONFIG)
    log(run, range(1, 3))
    (run.checkpoints / "step-1").mkdir()
    fresh = runs.start(tmp_path, "seed: 2\n", clean=True)
    assert fresh.config.read_text() == "seed: 2\n"
    assert sorted(files(tmp_path)) == [runs.MARKER, "config.yaml"]
    assert list(fresh.checkpoints.iterdir()) == []


def test_clean_deletes_nothing_but_runs(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    with pytest.raises(RunError, match="deletes runs only"):
        runs.start(tmp_path, CONFIG, clean=True)
    assert files(tmp_path) == {"config.yaml": CONFIG.encode()}


def test_clean_does_not_follow_links(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    run = runs.start(tmp_path / "run", CONFIG)
    (run.path / "link").symlink_to(precious)
    runs.start(run.path, CONFIG, clean=True)
    assert files(precious) == {"file": b"kept"}
    (tmp_path / "alias").symlink_to(run.path)
    with pytest.raises(RunError, match="found a file or a link"):
        runs.start(tmp_path / "alias", CONFIG, clean=True)
    assert run.config.exists()


def test_clean_of_nothing_is_a_plain_start(tmp_path: Path) -> None:
    assert runs.start(tmp_path / "run", CONFIG, clean=True).config.exists()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="found a file or a link"):
        runs.start(tmp_path / "run", CONFIG)


def test_resume_changes_nothing(tmp_path: Path) -> None:
    log(runs.start(tmp_path, CONFIG), range(1, 4))
    before = files(tmp_path)
    runs.start(tmp_path, CONFIG, resume=True)
    assert files(tmp_path) == before


def test_resume_with_another_config_names_the_keys(tmp_path: Path) -> None:
    runs.start(tmp_path, CONFIG)
    with pytest.raises(RunError) as caught:
        runs.start(tmp_path, "seed: 1\noptim:\n  lr: 0.2\n  warmup: 3\n", resume=True)
    assert "optim.lr: 0.1 -> 0.2; optim.warmup: (absent) -> 3" in str(caught.value)
    assert "seed" not in str(caught.value)


def test_resume_may_change_how_figures_come_about_and_says_so(tmp_path: Path) -> None:
    runs.start(tmp_path, "seed: 1\ncache: {memory: 1, disk: 2}\ncached: 3\n")
    changed = "seed: 1\ncache: {memory: 4, disk: 2}\ncached: 3\n"
    with pytest.raises(RunError, match=r"\(cache\.memory: 1 -> 4\)"):
        runs.start(tmp_path, changed, resume=True)
    run = runs.start(tmp_path, changed, resume=True, changeable=["cache"])
    assert run.config.read_text() == changed
    runs.start(tmp_path, changed, resume=True, changeable=["cache"])
    assert (tmp_path / "resumed.jsonl").read_text() == '{"changed": ["cache.memory: 1 -> 4"]}\n'
    with pytest.raises(RunError, match=r"\(cached: 3 -> 5\)"):
        runs.start(tmp_path, changed.replace("3", "5"), resume=True, changeable=["cache"])


@pytest.mark.parametrize("exists", [True, False])
def test_resume_needs_a_run(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "none"
    with pytest.raises(RunError, match="found no run to resume"):
        runs.start(folder, CONFIG, resume=True)
    assert not list(tmp_path.iterdir())


def test_resume_and_clean_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exclude each other"):
        runs.start(tmp_path, CONFIG, resume=True, clean=True)


@pytest.mark.parametrize("tail", ["", '{"step": 7, "lo', '{"step": 6}'])
def test_a_resumed_log_equals_an_undisturbed_one(tmp_path: Path, tail: str) -> None:
    """Invariant 6: rows behind the checkpoint and a row cut off by a kill leave no trace."""
    whole = runs.start(tmp_path / "whole", CONFIG)
    log(whole, range(1, 11))
    killed = runs.start(tmp_path / "killed", CONFIG)
    log(killed, range(1, 7))
    with killed.metrics.open("a") as out:
        out.write(tail)
    resumed = runs.start(killed.path, CONFIG, resume=True)
    resumed.truncate_after(5)
    log(resumed, range(6, 11))
    assert files(killed.path) == files(whole.path)


def test_truncation_needs_no_log(tmp_path: Path) -> None:
    run = runs.start(tmp_path, CONFIG)
    before = files(tmp_path)
    run.truncate_after(0)
    assert files(tmp_path) == before


@pytest.mark.parametrize("line", ["{}", "[1]", "nonsense", '{"step": null}', '{"step": "x"}'])
def test_truncation_names_a_broken_row(tmp_path: Path, line: str) -> None:
    run = runs.start(tmp_path, CONFIG)
    text = '{"step": 1}\n' + line + '\n{"step": 3}\n'
    run.metrics.write_text(text)
    with pytest.raises(RunError, match=r"metrics\.jsonl:2: found a row without a step"):
        run.truncate_after(5)
    assert run.metrics.read_text() == text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_json_is_never_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        io.append_jsonl(tmp_path / "metrics.jsonl", {"step": 1}, {"step": 1, "loss": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        io.write_json(tmp_path / "report.json", {"loss": value})
    assert list(tmp_path.iterdir()) == []


def test_writing_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    io.write_json(path, {"text": "é" * 100})
    io.write_json(path, {"n": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    io.write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        io.write_text(path, "new")
    assert path.read_text() == "old"


def test_a_killed_process_leaves_whole_rows(tmp_path: Path) -> None:
    program = (
        "import itertools, sys, pathlib; from reground.io import append_jsonl\n"
        "for step in itertools.count(1):\n"
        "    append_jsonl(pathlib.Path(sys.argv[1]), {'step': step, 'text': 'x' * 2000})\n"
        "    print(step, flush=True)\n"
    )
    path = tmp_path / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    reported = [int(process.stdout.readline()) for _ in range(5)]
    process.send_signal(signal.SIGKILL)
    reported += [int(line) for line in process.stdout]
    process.wait()
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps[: len(reported)] == reported


def test_a_result_says_how_it_was_made() -> None:
    header = provenance.result_header(command="reground demo", config={"steps": 3}, seed=7)
    assert (header["command"], header["config"], header["seed"]) == (
        "reground demo",
        {"steps": 3},
        7,
    )
    assert header["machine"]["cpus"] == os.cpu_count()
    assert header["machine"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert json.loads(json.dumps(header)) == header


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def commit_of_package_in(folder: Path) -> str | None:
    """The commit that a copy of the module in ``folder`` reports."""
    program = (
        "import json, provenance\n"
        "print(json.dumps(provenance.result_header(command='', config={}, seed=0)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, check=True, capture_output=True, text=True
    )
    commit: str | None = json.loads(done.stdout)["commit"]
    return commit


def test_the_commit_is_that_of_the_package_not_of_the_folder_around_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    copy = tmp_path / "provenance.py"
    copy.write_text(Path(provenance.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "other").write_text("")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-qm", "other")
    assert commit_of_package_in(tmp_path) is None
    git(tmp_path, "add", "provenance.py")
    git(tmp_path, "commit", "-qm", "package")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of_package_in(tmp_path) == commit
    copy.write_text(copy.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert commit_of_package_in(tmp_path) == commit + "-dirty"
