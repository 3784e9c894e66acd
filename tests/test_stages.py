"""The stages as a user meets them: a small run of the pipeline, and every mistake answered by one clear line."""

import ast
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import edit, model_file

import stages
from minitrain import files, sources
from proofs.project import SHORT, copy_project, set_params, tree


@pytest.fixture
def project(tmp_path):
    """The project before any run."""
    return copy_project(tmp_path / "project")


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that must have failed for a user's mistake: one line, no traceback."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


# --- what a run leaves ---------------------------------------------------------------------------------


def test_a_run_leaves_the_files_of_the_contract(ran):
    project, _ = ran
    models = set(tree(project / "models"))
    stem = next(name for name in models if name.endswith(".manifest.json")).removesuffix(".manifest.json")
    assert models == {
        f"{stem}.safetensors",
        f"{stem}.manifest.json",
        f"{stem}.state.safetensors",
        "evidence/kept.safetensors",
        "evidence/probe.safetensors",
    }
    digest = files.sha256_file(project / "models" / f"{stem}.safetensors")
    assert stem == f"minigpt-phase18-{digest[:12]}"
    assert set(tree(project / "data/batches")) == {
        *(f"{split}.safetensors" for split in ("train", "val", "test")),
        *("tokenizer.json", "cells.json", "summary.json"),
    }


def test_the_manifest_names_what_the_run_was_made_of_and_nothing_volatile(ran):
    project, _ = ran
    path = next((project / "models").glob("*.manifest.json"))
    manifest = json.loads(path.read_text())
    assert manifest["schema_version"] == 1
    assert {
        "seed",
        "config",
        "config_hash",
        "data_manifest_sha256",
        "code_digest",
        "packages",
        "numerics",
        "step",
    } <= set(manifest)
    for name, digest in manifest["files"].items():
        assert files.sha256_file(project / "models" / name) == digest
    text = path.read_text()
    assert str(project) not in text
    assert "20" + time.strftime("%y-") not in text


def test_the_log_has_every_step_once(ran):
    project, _ = ran
    rows = list(csv.DictReader((project / "plots/train/log.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(24))
    assert list(rows[0]) == ["step", "loss", "lr", "grad_norm"]


def test_the_round_trip_holds_for_each_state_machine(ran):
    metrics = json.loads((ran[0] / "plots/checkpoint-roundtrip-verify/metrics.json").read_text())
    assert set(metrics["state_machines"]) >= {"model", "optimizer", "scheduler", "data", "rng"}
    assert all(metrics["state_machines"].values())
    assert metrics["resumed_run_ends_in_same_state"] is True
    assert metrics["kept_step"] == 18
    assert metrics["bytes"]["model"] > 4 * 103_680


def test_drift_is_measured_at_every_layer(ran):
    metrics = json.loads((ran[0] / "plots/fp16-drift/metrics.json").read_text())
    layers = {"embed_out", "block_0_out", "block_1_out", "final_ln_out", "logits"}
    assert set(metrics["largest_activation"]) == layers
    for name in ("fp16", "bf16"):
        for mode in ("weights", "weights_and_activations"):
            assert set(metrics[name][mode]["layers"]) == layers
            # A table of rounded numbers is within the bound of one rounding, whatever comes after.
            assert metrics[name][mode]["layers"]["embed_out"]["relative_l2"] <= metrics[name]["unit_roundoff"]
    assert (
        metrics["fp16"]["weights"]["layers"]["logits"]["relative_l2"]
        < metrics["bf16"]["weights"]["layers"]["logits"]["relative_l2"]
    )
    page = (ran[0] / "plots/fp16-drift/argmax_flips.md").read_text()
    for name in ("fp16", "bf16"):
        for mode in ("weights", "weights_and_activations"):
            rows = [line for line in page.splitlines() if line.startswith(f"| {name} | {mode.replace('_', ' ')} |")]
            assert sum(int(row.split("|")[-2]) for row in rows) == metrics[name][mode]["argmax_flips"]


def test_the_comparison_has_the_keys_of_the_contract(ran):
    metrics = json.loads((ran[0] / "plots/baseline-compare/metrics.json").read_text())
    for split in ("val", "test"):
        of_split = metrics[split]
        assert set(of_split["add_alpha"]) == set("1234567")
        assert set(of_split["kneser_ney"]) == set("234567")
        best = min(*of_split["add_alpha"].values(), *of_split["kneser_ney"].values())
        assert of_split["best_baseline_ppl"] == best
        assert of_split["ratio_to_best_baseline"] == pytest.approx(of_split["model_ppl"] / best, rel=1e-5)
        assert 1.3 < of_split["floor_ppl"] < 1.5
        assert set(of_split["model_ppl_by"]) == {"english_regularity", "direction", "half"}


def test_running_a_stage_again_leaves_the_same_bytes(ran, run):
    project, _ = ran
    before = tree(project / "plots")
    for stage in ("fp16_drift", "baseline_compare"):
        assert run(project, f"stages.{stage}").returncode == 0
    assert tree(project / "plots") == before


def test_training_again_trains_again(ran, run, tmp_path):
    """A finished run leaves no working checkpoint from which the next would only be exported again."""
    project = Path(shutil.copytree(ran[0], tmp_path / "again"))
    assert list(project.glob("checkpoints/*")) == []
    result = run(project, "stages.train")
    assert result.returncode == 0
    assert "going on from step" not in result.stdout
    assert "step 0: val loss" in result.stdout
    assert tree(project, "models", "plots/train") == tree(ran[0], "models", "plots/train")


@pytest.mark.parametrize("lr", [30.0, 1000.0])
def test_a_run_that_diverges_stops_with_one_line(project, run, lr):
    set_params(project, {**SHORT, "train.lr": lr, "train.warmup_steps": 0, "train.clip_norm": 1e6})
    assert run(project, "stages.shard_to_batches").returncode == 0
    message = refused(run(project, "stages.train"))
    assert "step " in message
    assert "The last checkpoint before: checkpoints/" in message
    assert not (project / "models").exists()


# Loaded by Python at its start: the wall clock jumps by up to a year, forwards and back, each time somebody looks.
JUMPING_CLOCK = """
import random, time
now, jumps = time.time, random.Random(18)
time.time = lambda: now() + jumps.uniform(-3e7, 3e7)
"""


def test_one_core_a_jumping_clock_another_locale_and_time_zone_leave_the_same_bytes(ran, tmp_path):
    project = copy_project(tmp_path / "one-core", SHORT)
    (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK)
    core = min(os.sched_getaffinity(0))
    elsewhere = {
        **{"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "PYTHONPATH": str(tmp_path)},
        **{"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},  # text is ASCII if nobody says UTF-8
    }
    for stage in ran[1]:
        subprocess.run(
            [sys.executable, "-m", f"stages.{stage}"],
            cwd=project,
            env={**os.environ, **elsewhere},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            check=True,
            capture_output=True,
        )
    assert tree(project, "data/batches", "models", "plots") == tree(ran[0], "data/batches", "models", "plots")


def test_a_training_beside_another_is_refused_and_harms_nothing(ran, tmp_path, run):
    """A dvc that is ended by SIGTERM leaves its stage at work; dvc repro would then start a second one."""
    project = copy_project(tmp_path / "project", SHORT)
    assert run(project, "stages.shard_to_batches").returncode == 0
    first = subprocess.Popen([sys.executable, "-m", "stages.train"], cwd=project, stdout=subprocess.DEVNULL)
    while not list(project.glob("checkpoints/*/step-*.safetensors")) and first.poll() is None:
        os.sched_yield()
    first.send_signal(signal.SIGSTOP)  # it must not end too soon
    assert "checkpoints: another run is at work here" in refused(run(project, "stages.train"))
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    assert tree(project, "models", "plots/train") == tree(ran[0], "models", "plots/train")
    assert run(project, "stages.train").returncode == 0


def test_a_stage_whose_stderr_is_closed_runs_all_the_same(project):
    set_params(project, {**SHORT, "train.steps": 1})
    for stage in ("shard_to_batches", "train"):
        command = f"exec {sys.executable} -m stages.{stage} 2>&-"
        assert subprocess.run(command, shell=True, cwd=project, stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_a_folder_of_somebody_else_among_the_checkpoints_is_left_alone(project, run):
    set_params(project, {**SHORT, "train.steps": 1})
    for name in ("mine", "0123456789abcdef"):
        (project / "checkpoints" / name).mkdir(parents=True)
    assert run(project, "stages.shard_to_batches").returncode == 0
    assert run(project, "stages.train").returncode == 0
    assert [path.name for path in (project / "checkpoints").iterdir()] == ["mine"]


def test_what_a_killed_process_left_half_written_among_the_checkpoints_goes(project, run):
    set_params(project, {**SHORT, "train.steps": 1})
    assert run(project, "stages.shard_to_batches").returncode == 0
    command = [sys.executable, "-c", "from stages import train; train.produce()"]
    subprocess.run(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    before = tree(project, "checkpoints")
    (manifest,) = project.glob("checkpoints/*/manifest.json")
    (manifest.parent / ".step-000000002.safetensors.999999999.tmp").write_bytes(b"half")
    subprocess.run(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    assert tree(project, "checkpoints") == before


def test_without_a_whole_mid_run_checkpoint_a_run_starts_over(project, run):
    set_params(project, {**SHORT, "train.steps": 4})
    assert run(project, "stages.shard_to_batches").returncode == 0
    command = [sys.executable, "-c", "from stages import train; train.produce()"]
    subprocess.run(command, cwd=project, capture_output=True, check=True)
    before = tree(project, "models", "plots/train", "checkpoints")
    (kept,) = project.glob("checkpoints/*/kept.safetensors")
    for content in (kept.read_bytes()[:-1], None):
        kept.unlink()
        if content is not None:
            kept.write_bytes(content)
        again = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
        assert "starting over" in again.stdout
        assert "kept.safetensors: " in again.stdout
        assert tree(project, "models", "plots/train", "checkpoints") == before


def test_a_notebooks_backend_does_not_matter(ran, run):
    result = run(ran[0], "stages.fp16_drift", MPLBACKEND="module://matplotlib_inline.backend_inline")
    assert result.returncode == 0, result.stderr


def test_output_that_nobody_reads_ends_the_run_quietly():
    code = "from minitrain.errors import run_command\nrun_command(lambda: [print('x' * 1000) for _ in range(10_000)])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("end", ["\\n", ""])
def test_output_to_a_full_disk_ends_the_run_with_one_line(end, unbuffered):
    code = f"from minitrain.errors import run_command\nrun_command(lambda: print('x', end='{end}'))"
    command, env = [sys.executable, "-c", code], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert result.stderr.count("\n") == 1, result.stderr
        assert "error: what is printed cannot be written: No space left on device. Make room" in result.stderr
        both = subprocess.run(command, env=env, stdout=full, stderr=full, check=False)
    assert (result.returncode, both.returncode) == (1, 1)


def test_an_error_of_the_system_that_nobody_foresaw_keeps_its_traceback():
    code = "import os\nfrom minitrain.errors import run_command\nrun_command(lambda: os.mkdir('/'))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, "FileExistsError" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("failing", "got"),
    [
        ("__import__('numpy').zeros(2**50)", r" \(Unable to allocate 8.00 PiB for an array with shape .*\)"),
        ("'x' * 2**62", ""),
    ],
)
def test_too_little_memory_is_one_line_that_says_what_to_do(failing, got):
    code = f"from minitrain.errors import run_command\nrun_command(lambda: {failing})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert re.fullmatch(f"error: not enough memory{got}. Choose smaller values in params.yaml.*", refused(result))


def test_what_is_printed_is_there_at_once_even_if_the_run_is_killed():
    code = "import os\nfrom minitrain.errors import run_command\nrun_command(lambda: (print('step 0'), os.kill(os.getpid(), 9)))"
    command = [sys.executable, "-E", "-c", code]  # -E: PYTHONUNBUFFERED might be set
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (-9, "step 0\n")


def test_sigterm_outside_of_the_training_loop_says_how_to_go_on():
    code = "import os, signal\nfrom minitrain.errors import run_command\n"
    code += "run_command(lambda: os.kill(os.getpid(), signal.SIGTERM))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (143, "stopped by SIGTERM. To go on: run the same command again.\n")


def goes_on_to_the_same_bytes(project: Path, whole: Path, run) -> str:
    """Run the stopped training of a project to its end; what that printed."""
    assert not (project / "models").exists()
    again = run(project, "stages.train")
    assert again.returncode == 0, again.stderr
    assert tree(project / "models") == tree(whole / "models")
    assert tree(project / "plots/train") == tree(whole / "plots/train")
    return again.stdout


def test_a_killed_run_goes_on_and_leaves_the_same_bytes(ran, tmp_path, run):
    project = copy_project(tmp_path / "killed", SHORT)
    assert run(project, "stages.shard_to_batches").returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.train"], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not list(project.glob("checkpoints/*/step-*.safetensors")) and process.poll() is None:
        os.sched_yield()
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "going on from step" in goes_on_to_the_same_bytes(project, ran[0], run)


STOPS_AT_STEP_5 = """
import os
from minitrain.errors import run_command
from stages import train

def stopping(*args, real=train.train):
    steps = 0
    for event in real(*args):
        steps += isinstance(event, train.Step)
        if steps == 5:  # no checkpoint is due there
            os.kill(os.getpid(), {number})
        yield event

train.train = stopping
run_command(train.main)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_first_and_goes_on_from_there(ran, tmp_path, run, how):
    project = copy_project(tmp_path / "stopped", SHORT)
    assert run(project, "stages.shard_to_batches").returncode == 0
    command = [sys.executable, "-c", STOPS_AT_STEP_5.format(number=int(how))]
    stopped = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    (saved,) = project.glob("checkpoints/*/step-000000005.safetensors")
    message = f"stopped by {how.name} after step 5; saved in {saved.parent.relative_to(project)}. To go on: dvc repro"
    assert (stopped.returncode, message in stopped.stderr) == (128 + how, True), stopped.stderr
    assert "going on from step 5 " in goes_on_to_the_same_bytes(project, ran[0], run)


def test_a_checkpoint_of_other_parameters_is_not_used_but_removed(tmp_path, run):
    project = copy_project(tmp_path / "stale", SHORT)
    assert run(project, "stages.shard_to_batches").returncode == 0
    code = "from stages import train; train.produce()"
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True)
    (stale,) = project.glob("checkpoints/*")
    set_params(project, {"train.lr": 0.002})
    again = subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True, text=True)
    assert "going on from step" not in again.stdout
    assert not stale.exists()
    loop = project / "minitrain" / "loop.py"
    loop.write_text(loop.read_text() + "# another line of training code\n")
    again = subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True, text=True)
    assert "going on from step" not in again.stdout
    assert len(list(project.glob("checkpoints/*"))) == 1


def test_where_bits_are_not_promised_training_says_so(tmp_path, run):
    project = copy_project(tmp_path / "elsewhere", {**SHORT, "train.steps": 1})
    edit(project / "minitrain/numerics.py", {'"openblas_core": "Haswell"': '"openblas_core": "Another"'})
    assert run(project, "stages.shard_to_batches").returncode == 0
    result = subprocess.run(
        [sys.executable, "-c", "from stages import train; train.produce()"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "note: equal bytes are not promised on this machine (its openblas_core)" in result.stdout


# --- mistakes --------------------------------------------------------------------------------------------

SHARD = "data/shards/shard-01.jsonl"


def first_row(project: Path) -> dict:
    return json.loads((project / SHARD).read_text().splitlines()[0])


def replace_first_row(project: Path, line: str) -> None:
    lines = (project / SHARD).read_text().splitlines(keepends=True)
    (project / SHARD).write_text(line + "\n" + "".join(lines[1:]))


def without(row: dict, key: str) -> str:
    return json.dumps({name: value for name, value in row.items() if name != key})


@pytest.mark.parametrize("name", ["numpy", "safetensors", "yaml", "tqdm", "mlflow"])
def test_a_missing_package_is_named_before_anything_is_imported(root, name):
    code = f"import sys; sys.modules['{name}'] = None; import stages.train"  # None: Python takes it for not there
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    message = refused(result)
    assert f"missing from {sys.executable}: {name}." in message
    assert "source .venv/bin/activate" in message


def test_another_program_imports_from_the_stages_without_the_packages_that_it_does_not_need(root, tmp_path):
    """As ``make bench`` does, in an environment of its own."""
    there = (root / "requirements-bench.txt").read_text().replace("pyyaml", "yaml")
    missing = [name for name in stages.NEEDED if f"\n{name}==" not in there]
    assert "mlflow" in missing
    hidden = "".join(f"sys.modules['{name}'] = None\n" for name in missing)
    (tmp_path / "program.py").write_text(f"import sys\n{hidden}from stages.inputs import read_batches\n")
    env = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, tmp_path / "program.py"], cwd=root, env=env, check=True)


@pytest.mark.parametrize("name", ["numpy", "tqdm"])
def test_a_stage_started_as_users_start_it_names_the_missing_package(root, run, tmp_path, name):
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules['{name}'] = None")
    assert f": {name}." in refused(run(root, "stages.train", PYTHONPATH=str(tmp_path)))


def test_every_package_that_the_stages_import_is_looked_up(root, monkeypatch):
    monkeypatch.chdir(root)
    files_of_stages = {path for script in Path("stages").glob("*.py") for path in sources.import_closure(script)}
    imported = {
        module.split(".")[0]
        for path in files_of_stages
        for module in sources._imported_modules(ast.parse(path.read_text()))
    }
    assert imported - set(sys.stdlib_module_names) - set(sources.PACKAGES) == set(stages.NEEDED)


BAD_CORPUS = {
    "broken JSON": (lambda p: replace_first_row(p, '{"id": '), f"{SHARD}:1: expected a JSON object"),
    "missing key": (
        lambda p: replace_first_row(p, without(first_row(p), "tense")),
        f"{SHARD}:1: key 'tense' is missing",
    ),
    "unknown tense": (
        lambda p: replace_first_row(p, json.dumps({**first_row(p), "tense": "pluperfect"})),
        f"{SHARD}:1: key 'tense': expected one of infinitive",
    ),
    "duplicate row": (
        lambda p: (p / SHARD).write_text((p / SHARD).read_text() + (p / SHARD).read_text().splitlines()[0] + "\n"),
        f"{SHARD}:168: duplicate id",
    ),
    "invalid UTF-8": (
        lambda p: (p / SHARD).write_bytes(b'{"id": "\xff"}\n'),
        f"{SHARD}:1: expected UTF-8, got the byte 0xff",
    ),
    "empty folder": (
        lambda p: [path.unlink() for path in (p / "data/shards").iterdir()],
        "expected at least one shard",
    ),
    "missing folder": (
        lambda p: edit(p / "params.yaml", {"data/shards": "data/nowhere"}),
        "data/nowhere: expected a folder",
    ),
    "not as in the manifest": (
        lambda p: (p / SHARD).write_text("\n".join((p / SHARD).read_text().splitlines()[:-1]) + "\n"),
        f"{SHARD}: rows: expected 167",
    ),
    "missing shard": (lambda p: (p / SHARD).unlink(), f"{SHARD}: listed in data/MANIFEST.json but not there"),
    "missing manifest": (lambda p: (p / "data/MANIFEST.json").unlink(), "data/MANIFEST.json: cannot be read"),
    "too long a sequence": (
        lambda p: edit(p / "params.yaml", {"context: 32": "context: 20"}),
        "expected at most 21 tokens",
    ),
    "too small a vocabulary": (
        lambda p: edit(p / "params.yaml", {"vocab_size: 64": "vocab_size: 20"}),
        "tokenizer.vocab_size",
    ),
    "unknown key": (
        lambda p: edit(p / "params.yaml", {"steps: 2000": "stepps: 2000"}),
        "params.yaml:26: train.stepps: unknown key",
    ),
    "wrong type": (
        lambda p: edit(p / "params.yaml", {"steps: 2000": "steps: x"}),
        "params.yaml:26: train.steps: expected a whole",
    ),
    "heads": (lambda p: edit(p / "params.yaml", {"d_model: 64": "d_model: 66"}), "model.d_model: expected a multiple"),
}


@pytest.mark.parametrize("name", BAD_CORPUS)
def test_a_bad_corpus_or_parameter_is_named_and_nothing_is_written(project, run, name):
    breaking, message = BAD_CORPUS[name]
    breaking(project)
    assert message in refused(run(project, "stages.shard_to_batches"))
    assert not (project / "data/batches").exists()
    assert not (project / "plots").exists()


def test_training_without_batches_is_named(project, run):
    message = refused(run(project, "stages.train"))
    assert "data/batches: expected the output of shard-to-batches" in message
    assert "dvc repro shard-to-batches" in message
    assert not (project / "models").exists()


@pytest.fixture
def broken(ran, tmp_path):
    """A copy of the small run, to be damaged."""
    return Path(shutil.copytree(ran[0], tmp_path / "broken", ignore=shutil.ignore_patterns("checkpoints", "mlruns")))


BAD_FILES = {
    "truncated model": (lambda p: model_file(p).write_bytes(model_file(p).read_bytes()[:-1]), "expected the sha256"),
    "flipped bit in the model": (
        lambda p: model_file(p).write_bytes(
            model_file(p).read_bytes()[:-1] + bytes([model_file(p).read_bytes()[-1] ^ 1])
        ),
        "the file was damaged or changed",
    ),
    "no model": (lambda p: model_file(p).unlink(), "cannot be read"),
    "no manifest": (
        lambda p: next((p / "models").glob("*.json")).unlink(),
        "expected one model with its manifest, found 0",
    ),
    "model of another config": (
        lambda p: edit(p / "params.yaml", {"d_ff: 256": "d_ff: 128"}),
        "expected the config of params.yaml",
    ),
    "manifest of another schema": (
        lambda p: edit(next((p / "models").glob("*.json")), {'"schema_version": 1': '"schema_version": 9'}),
        "key 'schema_version': expected 1",
    ),
    "damaged batches": (
        lambda p: (p / "data/batches/val.safetensors").write_bytes(b"x" * 100),
        "data/batches/val.safetensors: expected the sha256",
    ),
    "damaged tokenizer": (
        lambda p: edit(p / "data/batches/tokenizer.json", {'"<unk>"': '"<UNK>"'}),
        "data/batches/tokenizer.json: expected the sha256",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_damaged_file_is_named(broken, run, name):
    breaking, message = BAD_FILES[name]
    before = tree(broken / "plots")
    breaking(broken)
    assert message in refused(run(broken, "stages.fp16_drift"))
    assert tree(broken / "plots") == before


def test_an_mlflow_server_that_is_not_there_is_named_and_the_work_is_on_disk(broken, run):
    shutil.rmtree(broken / "plots/fp16-drift")
    nowhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    assert "MLflow at http://127.0.0.1:9" in refused(run(broken, "stages.fp16_drift", **nowhere))
    assert (broken / "plots/fp16-drift/metrics.json").exists()
