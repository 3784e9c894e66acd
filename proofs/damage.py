"""Damaged and hostile files: every one is refused with an error that names it, quickly, in little memory.

Thousands of damaged copies of the model, the state, the batches and the tokenizer: bit flips anywhere, truncation,
growth, blocks overwritten or swapped, headers that lie about lengths and offsets, whole files with other tensors,
dtypes, shapes, values or keys, another config's file, and a symlink, folder or FIFO in the file's place. The loading
happens in child processes; a crash, a hang, a file that loads, a second or 200 MB too many is a failure. Negative
controls: the undamaged files do load, and a loader without its digest check is caught.

Then thousands of hostile copies: the digest that should have told is forged as well, and the files that hold digests
(manifest and summary.json) are changed themselves. Some of these load: whole files of other content, and JSON in which
only some value, or only its spelling, is another. No loader can tell; the gate does, which makes these files again and
compares them byte for byte. All else is refused.
"""

import argparse
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import chdir
from pathlib import Path

from minitrain.base import layout
from minitrain.base.errors import UserError
from minitrain.base.process import run_command
from minitrain.dataset.read import read_dataset
from minitrain.params import read_params
from minitrain.training.checkpoint import load_state
from minitrain.training.export import read_manifest, read_model
from proofs import program
from proofs.project import ROOT, SHORT, copy_project
from proofs.ways_to_damage import DAMAGES, damaged_copy, forge_digest, in_its_place, restore

MEMORY = 200 << 20  # bytes that a refusal may cost, beyond what the loaded libraries take
SECONDS = 1.0  # that a refusal may take
CHUNK = 250  # damaged copies for each child process
DIGEST_CHECK = 'if metadata != {"sha256": tensors_digest(tensors)} or encode_tensors(tensors) != data:'


def targets(project: Path) -> dict[str, Path]:
    """The files to damage, by what they are."""
    model = next(path for path in (project / "models").glob("*.safetensors") if ".state." not in path.name)
    return {
        "model": model,
        "state": layout.state_path(model),
        "checkpoint": project / layout.MODELS / layout.MIDRUN_CHECKPOINT,
        "train batches": project / "data" / "batches" / "train.safetensors",
        "val batches": project / "data" / "batches" / "val.safetensors",
        "tokenizer": project / "data" / "batches" / "tokenizer.json",
    }


def roots(project: Path) -> dict[str, Path]:
    """The files that hold the digests of the others, and have none themselves."""
    return {
        "manifest": next((project / "models").glob("*.manifest.json")),
        "summary": project / "data" / "batches" / "summary.json",
    }


def load(kind: str, path: Path) -> None:
    """Load a target the way the stages do; in the project's folder."""
    params = read_params()
    if kind in ("model", "manifest"):
        read_model(layout.MODELS, params.model)
    elif kind == "state":
        load_state(path, params.model, params.train, read_manifest(layout.MODELS)["files"][path.name])
    elif kind == "checkpoint":  # a working checkpoint has no manifest, only its own digest
        load_state(path, params.model, params.train)
    else:
        read_dataset(layout.BATCHES, params.model)


def child(project: Path, first: int, n: int, hostile: bool) -> None:
    """Damage and load copies number ``first`` to ``first + n``; prints what happened as JSON."""

    def hangs(*_: object) -> None:
        raise TimeoutError("took more than ten seconds")

    signal.signal(signal.SIGALRM, hangs)
    kinds, bad, slowest = Counter[str](), [], 0.0
    with chdir(project):
        paths = targets(Path()) | (roots(Path()) if hostile else {})
        originals = {kind: (path, path.read_bytes()) for kind, path in paths.items()}
        for kind, path in paths.items():
            load(kind, path)  # the negative control: whole files do load, and all that is imported is imported
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(first, first + n):
            rng = random.Random(number)
            kind = rng.choice(list(originals))
            path, data = originals[kind]
            if not hostile and rng.random() < 0.03:
                path.with_name("original").write_bytes(data)
                how = in_its_place(rng, path)
            else:
                how, damaged = damaged_copy(rng, kind, data)
                path.write_bytes(damaged)
                if hostile:
                    path = forge_digest(kind, path)
            signal.alarm(10)
            start = time.perf_counter()
            result = "refused"
            try:
                load(kind, path)
                result = "loaded"
                if not (hostile and (kind in DAMAGES or how == "other_content")):
                    bad.append(f"{number}: {kind}, {how}: loaded")
            except UserError as error:
                if path.name not in str(error) and not hostile:
                    bad.append(f"{number}: {kind}, {how}: the error does not name the file: {error}")
            except BaseException as error:
                bad.append(f"{number}: {kind}, {how}: {error!r}")
            slowest = max(slowest, time.perf_counter() - start)
            signal.alarm(0)
            path.with_name("original").unlink(missing_ok=True)
            if hostile:
                path.unlink()
            for original, content in originals.values() if hostile else [originals[kind]]:
                restore(original, content)
            kinds[f"{kind}: {how}{', loaded' if result == 'loaded' else ''}"] += 1
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    print(json.dumps({"kinds": kinds, "bad": bad, "slowest": slowest, "grown": grown}))


def run_children(
    project: Path, n: int, code: Path = ROOT, hostile: bool = False
) -> tuple[Counter[str], list[str], float, int]:
    """All damaged copies, loaded in child processes by the ``code`` of a project; counts by kind, what went wrong,
    the slowest refusal, the most memory.
    """
    kinds, bad, slowest, grown = Counter[str](), list[str](), 0.0, 0
    for first in range(0, n, CHUNK):
        command = [
            sys.executable,
            "-m",
            "proofs.damage",
            "--child",
            str(project),
            str(first),
            str(min(CHUNK, n - first)),
            "hostile" if hostile else "damaged",
        ]
        result = subprocess.run(command, cwd=code, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            bad.append(f"copies from {first}: the process ended with {result.returncode}: {result.stderr[-500:]}")
            continue
        report = json.loads(result.stdout)
        kinds.update(report["kinds"])
        bad += report["bad"]
        slowest, grown = max(slowest, report["slowest"]), max(grown, report["grown"])
        done, what = min(first + CHUNK, n), "hostile" if hostile else "damaged"
        print(f"\r{done} of {n} {what} copies, {len(bad)} not refused as they should be", end="", flush=True)
    print()
    return kinds, bad, slowest, grown


def digest_check_matters(project: Path, careless: Path) -> bool:
    """The negative control: whether damaged files of a project load in ``careless``, code without the digest check."""
    copy_project(careless)
    shutil.copytree(ROOT / "proofs", careless / "proofs")
    module = careless / "minitrain" / "base" / "tensors.py"
    code = module.read_text()
    assert DIGEST_CHECK in code
    module.write_text(code.replace(DIGEST_CHECK, "if False:"))
    _, bad, _, _ = run_children(project, 100, careless)
    return any(line.endswith(": loaded") for line in bad)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proofs.damage")
    parser.add_argument("--copies", type=int, default=10_000, help="damaged copies (default: 10000)")
    parser.add_argument("--hostile", type=int, default=2_000, help="copies with forged digests (default: 2000)")
    parser.add_argument("--child", nargs=4, metavar=("PROJECT", "FIRST", "N", "KIND"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        project, first, n, kind = arguments.child
        child(Path(project), int(first), int(n), kind == "hostile")
        return
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        project = copy_project(Path(temporary) / "project", SHORT)
        code = program("shard_to_batches", "train")
        subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True)
        kinds, bad, slowest, grown = run_children(project, arguments.copies)
        forged, forged_bad, forged_slowest, forged_grown = run_children(project, arguments.hostile, hostile=True)
        for kind, count in sorted(kinds.items()):
            print(f"  {count:5}  {kind}")
        print("negative control, a loader without its digest check:")
        noticed = digest_check_matters(project, Path(temporary) / "careless")
    loaded = Counter[str]()
    for kind, count in forged.items():
        if kind.endswith(", loaded"):
            loaded[kind.split(":")[0]] += count
    which = ", ".join(f"{count} {kind}" for kind, count in loaded.most_common())
    print(
        f"{kinds.total() - len(bad)} refused, {len(bad)} not; of {forged.total()} with forged digests "
        f"{forged.total() - loaded.total() - len(forged_bad)} refused, {len(forged_bad)} not, {loaded.total()} load, "
        f"which the gate has to find ({which}); "
        f"slowest {max(slowest, forged_slowest):.3f} s, most memory {max(grown, forged_grown) / 2**20:.0f} MB; "
        f"undamaged files load; a loader without its digest check is {'caught' if noticed else 'NOT CAUGHT'}; "
        f"{time.monotonic() - start:.0f} s"
    )
    bad += forged_bad
    if bad or max(slowest, forged_slowest) > SECONDS or max(grown, forged_grown) > MEMORY or not noticed:
        raise UserError("\n".join(["the proof does not hold.", *bad[:20]]))


if __name__ == "__main__":
    run_command(main)
