"""A second clone, and a cluster, all on loopback.

A DVC remote in a real S3 server (moto's): one clone runs the pipeline and pushes; a second one pulls, and there ``dvc
repro`` runs only the gate, on the same bytes. Negative controls: one changed byte of the model in the bucket turns
the gate of a third clone red; a model that is not in the bucket is named.

Seeds trained by two Dask workers, one of which is killed at work: the results are those of a run without Dask, to the
last bit. Negative control: two seeds have other results.
"""

import dataclasses
import hashlib
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

import boto3

from benchmarks.seeds import run_seeds
from minitrain.base import UserError, process
from minitrain.corpus.shards import read_corpus
from minitrain.params import read_params
from proofs.project import (
    DVC,
    ROOT,
    SHORT,
    commit_all,
    copy_project,
    different,
    make_repository,
    must_fail,
    must_run,
    tree,
)
from proofs.servers import free_port, server, started

BUCKET = "team"
# The server asks for no password, but the client does.
os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
# Enough steps to beat the n-grams, so that the gate is green.
LONGER = {**SHORT, "train.steps": 400, "train.warmup_steps": 50, "train.eval_every": 50, "train.checkpoint_every": 200}
SEEDS = range(18, 22)
STEPS = {"steps": 24, "warmup_steps": 5, "eval_every": 8, "checkpoint_every": 10}  # of each seed


def clone(first: Path, name: str) -> Path:
    """A clone with a cache of its own, beside the first one."""
    must_run(first.parent, "git", "clone", "-q", str(first), name)
    return first.parent / name


def push_and_pull(first: Path) -> None:
    """Run the pipeline in the first clone and push; pull in a second one, and run the gate there."""
    must_run(first, *DVC, "repro")
    commit_all(first)
    must_run(first, *DVC, "push")
    second = clone(first, "second")
    must_run(second, *DVC, "pull")
    if wrong := different(tree(first, "models", "data/batches"), tree(second, "models", "data/batches")):
        raise UserError(f"different after the pull: {', '.join(wrong)}")
    if (ran := re.findall(r"^Running stage '(.*)'", must_run(second, *DVC, "repro"), re.MULTILINE)) != ["verify"]:
        raise UserError(f"expected only the gate to run after the pull, got {ran}")
    print("a second clone pulls the same bytes, and runs only the gate, which is green", flush=True)


def controls(first: Path, s3: "boto3.client") -> None:
    """The negative controls."""
    (model,) = (path for path in first.glob("models/*.safetensors") if ".state." not in path.name)
    data = bytearray(model.read_bytes())
    digest = hashlib.md5(data).hexdigest()
    of_model = {"Bucket": BUCKET, "Key": f"minitrain/files/md5/{digest[:2]}/{digest[2:]}"}
    data[-1] ^= 1
    s3.put_object(Body=bytes(data), **of_model)
    damaged = clone(first, "damaged")
    must_run(damaged, *DVC, "pull")
    must_fail("the gate is red: model, model files", damaged, *DVC, "repro")
    s3.delete_object(**of_model)
    must_fail(digest, clone(first, "missing"), *DVC, "pull")
    print("negative controls: a changed byte and a missing model are noticed", flush=True)


def s3_remote(folder: Path) -> None:
    """Push from one clone, pull in others."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    first = copy_project(folder / "first", LONGER)
    make_repository(first)
    must_run(first, *DVC, "remote", "add", "--default", "storage", f"s3://{BUCKET}/minitrain")
    must_run(first, *DVC, "remote", "modify", "storage", "endpointurl", url)
    with server(folder, url, sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)):
        s3 = boto3.client("s3", endpoint_url=url)
        s3.create_bucket(Bucket=BUCKET)
        push_and_pull(first)
        controls(first, s3)


def dask_cluster(folder: Path) -> None:
    """Train seeds by two workers, and kill one when the first seed is done: it is at work on another then."""
    params = read_params()
    params = dataclasses.replace(params, train=dataclasses.replace(params.train, **STEPS))
    corpus = read_corpus(Path(params.data.shards), Path(params.data.manifest))
    expected = dict(run_seeds(params, corpus, SEEDS))
    if expected[SEEDS[0]] == expected[SEEDS[1]]:
        raise UserError("the proof does not hold: two seeds have the same results")
    port, log = str(free_port()), folder / "dask.log"
    address, dask = f"tcp://127.0.0.1:{port}", (sys.executable, "-m", "dask")
    scheduler = (*dask, "scheduler", "--no-dashboard", "--no-show", "--host", "127.0.0.1", "--port", port)
    # A nanny would start it again.
    worker = (*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--local-directory", str(folder))
    with started(ROOT, log, *scheduler), started(ROOT, log, *worker) as first, started(ROOT, log, *worker):
        results = run_seeds(params, corpus, SEEDS, address)
        got = dict([next(results)])
        os.killpg(first.pid, signal.SIGKILL)
        got |= dict(results)
    if got != expected:
        raise UserError(f"expected {expected} although a worker was killed, got {got}")
    print(f"{len(got)} seeds by two workers, one of which was killed at work: equal to those without Dask")


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        s3_remote(Path(temporary).resolve())
        dask_cluster(Path(temporary).resolve())


if __name__ == "__main__":
    process.run_command(main)
