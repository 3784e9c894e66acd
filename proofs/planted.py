"""Does proofs.repeat find what it should? A DVC project with a clean stage, and a flawed one of each common kind."""

import json
import sys
import tempfile
from pathlib import Path

from minitrain.base import UserError
from minitrain.base.process import run_command
from proofs.project import make_repository
from proofs.repeat import AGAIN, KILLED, repeat

# By stage: its code, which leaves ``out/<stage>``, and the circumstances of which one at least must blame it.
STAGES = {
    "clean": ("text = str(sum(range(10)))", set()),
    "time_in_output": ("import time; text = str(time.time())", {AGAIN}),
    "local_date": ("import time; text = time.strftime('%d %H')", {"time zone, far west", "time zone, far east"}),
    "unseeded_shuffle": ("import random; text = str(random.sample(range(99), 9))", {AGAIN}),
    "set_order": ("text = ' '.join({'one', 'two', 'three', 'four', 'five', 'six'})", {"hash seed", AGAIN}),
    "order_of_glob": ("import glob; text = ' '.join(glob.glob('data/*'))", {"order of files"}),
    "number_of_cores": ("import os; text = str(len(os.sched_getaffinity(0)))", {"number of cores"}),
    "path_in_output": ("import os; text = os.getcwd()", {"path"}),
    "default_encoding": ("text = open('data/accent').read()", {"locale"}),
    "user": ("import os; text = os.path.expanduser('~')", {"home and user"}),
    "mode_of_file": ("import os; open('new', 'w').close(); text = oct(os.stat('new').st_mode)", {"umask"}),
    "written_in_place": (
        """
import os, time
if not os.path.exists("work"):
    with open("work", "w") as file:
        for i in range(100):
            print(i, file=file, flush=True)
            time.sleep(0.1)
text = open("work").read()""",
        set(KILLED),
    ),
}


def plant(project: Path) -> None:
    """Make the project, committed."""
    (project / "data").mkdir()
    for name in "abcdefgh":
        (project / "data" / name).write_text(name)
    (project / "data/accent").write_text("él\n", encoding="utf-8")
    (project / "out").mkdir()
    (project / "out/.gitkeep").touch()
    stages = {}
    for name, (code, _) in STAGES.items():
        path, script = f"out/{name}", f"{name}.py"
        (project / script).write_text(f"{code}\nopen({path!r}, 'w', errors='replace').write(text)\n")
        stages[name] = {"cmd": f"{sys.executable} {script}", "deps": [script], "outs": [path]}
    (project / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    make_repository(project)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        plant(Path(temporary))
        found = repeat(Path(temporary))
    for stage, (_, expected) in STAGES.items():
        blamed_by = {circumstance for circumstance, stages in found.items() if stage in stages}
        if not blamed_by & expected if expected else blamed_by:
            raise UserError(f"{stage}: expected to be blamed by one of {sorted(expected)}, got {sorted(blamed_by)}")
    print(f"all {len(STAGES) - 1} flaws found; the clean stage is clean")


if __name__ == "__main__":
    run_command(main)
