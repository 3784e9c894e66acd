"""``make audit`` on a small project, in the present environment, with what an honest run made. All: ``make prove-audit``."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import edit, run_python

from minitrain.base.layout import STAGES
from proofs.project import DVC, ROOT, SHORT, commit_all, copy_project, make_repository, must_run

LEFT_BY_A_RUN = ("dvc.lock", "data", "models", "plots")
TABLE = "plots/baseline-compare/perplexity_test.csv"


def dvc_commit(project: Path) -> None:
    must_run(project, *DVC, "commit", "-q", "-f", *STAGES)
    commit_all(project)


@pytest.fixture(scope="module")
def committed(ran, tmp_path_factory):
    """A project that has run, in git and under DVC."""
    project = copy_project(tmp_path_factory.mktemp("audit") / "project", SHORT)
    make_repository(project)
    shutil.copytree(ran, project, dirs_exist_ok=True)
    dvc_commit(project)
    return project


@pytest.fixture
def here(committed, tmp_path):
    return Path(shutil.copytree(committed, tmp_path / "here", symlinks=True))


def audited(here: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """The audit as ``make audit`` starts it, with another command to run in the clone."""
    return run_python(here, "-IS", str(ROOT / "proofs/audit.py"), *command)


@pytest.fixture
def take(committed):
    """A command that takes what an honest run made, in place of ``make repro``."""
    return ["cp", "-r", *(str(committed / name) for name in LEFT_BY_A_RUN), "."]


def test_a_clean_clone_makes_what_is_here(here, take):
    result = audited(here, *take)
    assert (result.returncode, result.stderr) == (0, "")
    says = r"audit: a clean clone of commit \w+ makes the same dvc.lock and the same 25 outputs\n"
    assert re.fullmatch(says, result.stdout)


def a_better_table(here: Path) -> None:
    (here / TABLE).write_text((here / TABLE).read_text().replace(",", ",1"))


@pytest.mark.parametrize(
    ("change", "with_its_lock", "names"),
    [
        (a_better_table, True, f"'dvc.lock', '{TABLE}'"),
        (lambda here: (here / "models/extra").touch(), False, "'models/extra'"),
        (lambda here: (here / "data/batches/val.safetensors").unlink(), False, "'data/batches/val.safetensors'"),
    ],
)
def test_each_output_that_differs_is_named_even_if_the_forged_one_is_committed(
    here, take, change, with_its_lock, names
):
    change(here)
    if with_its_lock:
        dvc_commit(here)
    result = audited(here, *take)
    says = r"error: audit: a clean clone of commit \w+ does not make what is here: "
    assert re.fullmatch(says + re.escape(names) + "\n", result.stderr), result.stderr
    assert result.returncode == 1


def test_what_is_here_and_not_in_the_commit_is_said_even_if_git_was_told_not_to(here, take):
    edit(here / "minitrain/loop.py", {"The training loop.": "Another training loop."})
    must_run(here, "git", "update-index", "--assume-unchanged", "minitrain/loop.py")
    for name in ("yaml.py", "minitrain/json.so", "notes.txt", "minitrain/__pycache__/loop.cpython-311.pyc"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    (here / ".git/info/exclude").write_text("*.py\n*.so\n")
    result = audited(here, *take)
    assert result.returncode == 0
    (note,) = re.findall(r"note: what is here is not commit \w+: (.*)", result.stdout)
    assert note == "'minitrain/loop.py', 'minitrain/json.so', 'yaml.py'"


def test_a_run_that_fails_in_the_clone_is_named(here):
    result = audited(here, "false")
    says = r"error: audit: .* does not make what is here: false \(failed, see above\), 'dvc.lock'\n"
    assert re.fullmatch(says, result.stderr)
    assert result.returncode == 1


def test_the_clones_run_starts_with_nothing_of_an_earlier_run_and_of_the_users_settings(here, tmp_path):
    """Else a commit with results, checkpoints or a cache of its own, or a shell that names some, could pass them on."""
    for name in (
        *("checkpoints/run/step.safetensors", ".venv/run", "stages/__pycache__/train.pyc", "elsewhere/cache"),
        *(".dvc/cache/runs/aa", ".dvc/tmp/x", ".dvc/config.local"),
    ):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()
    (here / ".dvc/config").write_text(
        f"[cache]\n    local = shared\n['remote \"shared\"']\n    url = {here}/elsewhere\n"
    )
    script = """
        ls -d dvc.lock models data/batches plots checkpoints .venv stages/__pycache__ 2> /dev/null
        env | grep -E '^(PYTHON|DVC_EXP|MLFLOW|MAKE|VIRTUAL)'
        ls .dvc | grep -v -x -e config -e tmp
        dvc config --list --show-origin | grep -v -e core.analytics=false -e cache.type=copy
        exit 0
    """
    shell = dict.fromkeys(("DVC_EXP_BASELINE_REV", "MLFLOW_TRACKING_URI"), "x")
    shell |= {"DVC_GLOBAL_CONFIG_DIR": str(tmp_path), "MAKEFLAGS": "n", "PYTHONPATH": str(ROOT)}
    (tmp_path / "config").write_text("[user]\n    name = x\n")
    code = f"from proofs import audit; from pathlib import Path as P; audit.run_from_nothing(P('{here}'), {['sh', '-c', script]!r})"
    result = run_python(tmp_path, "-c", code, **shell)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_no_command_of_the_projects_environment_takes_part(root):
    """Whether that environment was activated or not. ``echo`` stands for Python here, and shows what it would see."""
    command = ("make", "--no-print-directory", "audit", "PYTHON=echo $$PATH")
    printed = must_run(root, *command, PATH=f"{root}/.venv/bin:/usr/bin:/bin")
    assert printed.splitlines()[-1] == "/usr/bin:/bin -IS proofs/audit.py make PYTHON=echo /usr/bin:/bin repro"
