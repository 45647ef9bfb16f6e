"""How many threads frameworks take in a worker. Each case in a fresh process: they read it once."""

import json

from harness import run

LIMITED = """
import json, os, sys, threading
from modelserver import launching
if {clean}:
    for name in launching.THREAD_VARIABLES:
        os.environ.pop(name, None)
{before}
launching.limit_cpu_threads({threads}, forced={forced})
seen = [os.environ[name] for name in launching.THREAD_VARIABLES]
{after}
print(json.dumps(seen))
"""
TORCH_SAYS = """
import torch
seen.append(torch.get_num_threads())
thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
thread.start()
thread.join()
"""


def limited(threads, *, forced=False, before="", after="", env=None):
    done = run(
        ["-c", LIMITED.format(threads=threads, forced=forced, before=before, after=after, clean=env is None)],
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_frameworks_that_come_later_find_it_in_the_environment():
    assert limited(1, after=TORCH_SAYS) == ["1", "1", "1", 1, 1]


def test_what_the_users_environment_says_stays():
    env = {"OMP_NUM_THREADS": "3", "TF_NUM_INTRAOP_THREADS": "4"}
    assert limited(1, env=env) == ["3", "4", "1"]
    assert limited(1, env=env, forced=True) == ["1", "1", "1"]


def test_torch_that_is_there_is_told_and_later_threads_take_it_over():
    before = "import torch; torch.set_num_threads(4)"
    assert limited(2, before=before, after=TORCH_SAYS)[3:] == [2, 2]


def test_a_lower_number_of_the_users_stays_unless_another_is_asked_for():
    before = "import torch; torch.set_num_threads(1)"
    assert limited(2, before=before, after=TORCH_SAYS)[3:] == [1, 1]
    assert limited(2, before=before, after=TORCH_SAYS, forced=True)[3:] == [2, 2]


def test_torch_stays_as_the_users_environment_has_set_it():
    before = "import torch; torch.set_num_threads(4)"
    assert limited(2, before=before, after=TORCH_SAYS, env={"OMP_NUM_THREADS": "4"})[3:] == [4, 4]


def test_no_framework_is_imported():
    after = "seen.append([name for name in ('torch', 'tensorflow') if name in sys.modules])"
    assert limited(2, after=after) == ["2", "2", "2", []]
