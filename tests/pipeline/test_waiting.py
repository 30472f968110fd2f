"""When OpenMP's threads wait long for each other."""

import contextlib
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pipeline.environment import OPENMP
from pipeline.training import waiting
from pipeline.training.waiting import ALONE, CROWDED, Crowd, Watched, busy_seconds, wait_long_while_alone

PROC_STAT = """\
cpu  1000 200 300 9000 50 0 20 10 5 0
cpu0 600 100 200 4000 30 1 15 7 3 0
cpu1 300 80 70 4500 10 2 4 2 2 0
cpu10 100 20 30 500 10 4 1 1 0 0
intr 112983024 0 0
ctxt 99
"""


def seen(crowd, *cores, seconds=1.0):
    answers = []
    for wanted in cores:
        crowd.see(seconds, wanted)
        answers.append(crowd.is_there)
    return answers


def test_others_are_there_until_little_was_used_for_a_while():
    crowd = Crowd()
    assert crowd.is_there
    answers = seen(crowd, *[0.1] * 40)
    # The mean after n seconds is 0.1 + 0.9 * 0.9**n, which is below 0.3 from the fifteenth on.
    assert answers == [True] * 14 + [False] * 26


def test_what_a_core_is_used_for_now_and_then_is_no_crowd():
    crowd = Crowd()
    seen(crowd, *[0.0] * 40)
    assert not any(seen(crowd, *[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0] * 20))  # a quarter of a core in the mean


def test_a_busy_process_is_a_crowd_within_seconds_and_no_longer_soon_after_its_end():
    crowd = Crowd()
    seen(crowd, *[0.0] * 40)
    came = seen(crowd, *[1.0] * 20)
    assert came.index(True) == 6  # 1 - 0.9**7 is the first above 0.5
    went = seen(crowd, *[0.0] * 40)
    assert went.index(False) == 10  # 0.9 of the core, as it was by then, times 0.9**11
    assert not any(went[10:])


def test_between_the_bounds_it_stays_as_it_is():
    between = (ALONE + CROWDED) / 2
    crowd = Crowd()
    assert all(seen(crowd, *[between] * 100))
    seen(crowd, *[0.0] * 40)
    assert not any(seen(crowd, *[between] * 100))


def test_a_late_look_counts_for_the_time_since_the_last():
    one, many = Crowd(), Crowd()
    seen(one, 0.0, seconds=2.0)
    seen(many, 0.0, 0.0)
    assert one._wanted == pytest.approx(many._wanted, abs=0.011)
    assert seen(Crowd(), 0.0, seconds=60.0) == [False]


def test_busy_seconds_are_those_of_the_cores_that_this_process_may_use(monkeypatch, tmp_path):
    monkeypatch.setattr(waiting, "STAT", tmp_path / "stat")
    assert busy_seconds({0, 1}) == 0.0  # not Linux
    (tmp_path / "stat").write_text(PROC_STAT)
    tick = os.sysconf("SC_CLK_TCK")
    # user, nice, system, interrupts of both kinds; neither idle, nor waiting for disks, nor what other machines took
    assert busy_seconds({1}) == (300 + 80 + 70 + 2 + 4) / tick
    assert busy_seconds({0, 10}) == (600 + 100 + 200 + 1 + 15 + 100 + 20 + 30 + 4 + 1) / tick


def test_busy_seconds_of_this_machine_are_at_least_those_of_this_process():
    begun, mine = busy_seconds(os.sched_getaffinity(0)), os.times()
    while sum(os.times()[:2]) < sum(mine[:2]) + 0.3:
        sum(range(10_000))
    assert busy_seconds(os.sched_getaffinity(0)) - begun >= 0.2  # both count in ticks


class Machine:
    """What `time` is to the watch: for each look how long it came after the last, and the cores that were used."""

    def __init__(self, looks):
        self.looks, self.now, self.mine, self.busy = list(looks), 100.0, 7.0, 5000.0

    def sleep(self, seconds):
        if not self.looks:
            raise StopWatchError
        seconds, mine, others = self.looks.pop(0)
        self.now += seconds
        self.mine += seconds * mine
        self.busy += seconds * (mine + others)

    def monotonic(self):
        return self.now

    def process_time(self):
        return self.mine


class StopWatchError(Exception):
    pass


@pytest.fixture
def watch(monkeypatch):
    """Let the watch take some looks; returns how many it had taken when teams were made, and when they were let go."""

    def run(looks, *, num_threads=2, num_cores=2, quota=None, says=True):
        machine, told = Machine(looks), []

        class Teams:
            def __init__(self, threads, cores):
                assert (threads, cores) == (num_threads, num_cores)
                told.append(("made", len(looks) - len(machine.looks)))

            def end(self):
                told.append(("let go", len(looks) - len(machine.looks)))

        monkeypatch.setattr(waiting, "time", machine)
        monkeypatch.setattr(waiting, "Teams", Teams)
        monkeypatch.setattr(waiting, "busy_seconds", lambda cores: machine.busy if says else 0.0)
        monkeypatch.setattr(waiting, "num_cores", lambda: quota or num_cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_cores)))
        monkeypatch.setattr(Watched, "num_threads", num_threads)
        with contextlib.suppress(StopWatchError):
            waiting._watch()
        return told

    return run


ALONE_FOR, BUSY_FOR = [(1.0, 1.9, 0.1)] * 40, [(1.0, 1.0, 1.0)] * 40


def test_teams_are_held_while_others_use_the_cores(watch):
    assert watch(ALONE_FOR + BUSY_FOR + ALONE_FOR) == [("made", 0), ("let go", 15), ("made", 46), ("let go", 95)]


def test_what_the_process_itself_uses_does_not_count(watch):
    assert watch([(1.0, 2.0, 0.0)] * 40) == [("made", 0), ("let go", 12)]


def test_cores_that_the_process_leaves_free_are_the_others(watch):
    assert watch([(1.0, 2.0, 2.1)] * 40, num_threads=2, num_cores=4) == [("made", 0), ("let go", 15)]
    assert watch([(1.0, 2.0, 2.1)] * 40, num_threads=3, num_cores=4) == [("made", 0)]


def test_on_a_large_machine_it_is_as_soon_seen_that_others_come_and_go(watch):
    idle, full = [(1.0, 16.0, 0.1)] * 60, [(1.0, 16.0, 48.0)] * 60
    told = watch(idle + full + idle, num_threads=16, num_cores=32)
    assert told == [("made", 0), ("let go", 12), ("made", 67), ("let go", 132)]


def test_what_others_did_while_the_process_was_halted_does_not_count(watch):
    assert watch([*ALONE_FOR, (60.0, 0.0, 2.0), *ALONE_FOR]) == [("made", 0), ("let go", 15)]


def test_with_a_quota_and_where_nobody_says_what_others_use_teams_are_held_throughout(watch):
    assert watch(ALONE_FOR, quota=1) == [("made", 0)]
    assert watch(ALONE_FOR, says=False) == [("made", 0)]


@pytest.fixture
def began(monkeypatch):
    """Watches that have begun; none has before."""
    watches = []
    monkeypatch.setattr(Watched, "num_threads", 0)
    monkeypatch.setattr(waiting.threading, "Thread", lambda **_: SimpleNamespace(start=lambda: watches.append(1)))
    for name, value in OPENMP.items():
        monkeypatch.setenv(name, value)
    return watches


def test_a_process_has_one_watch_that_knows_how_many_threads_there_are(began):
    wait_long_while_alone(4)
    wait_long_while_alone(2)
    assert (began, Watched.num_threads) == ([1], 2)


def test_one_thread_waits_for_nobody(began):
    wait_long_while_alone(1)
    assert (began, Watched.num_threads) == ([], 0)


@pytest.mark.parametrize(
    "change", [{"GOMP_SPINCOUNT": "1000"}, {"OMP_WAIT_POLICY": "passive"}, {"OMP_WAIT_POLICY": None}]
)
def test_what_a_user_asks_of_openmp_is_left_alone(began, monkeypatch, change):
    for name, value in change.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    wait_long_while_alone(4)
    assert (began, Watched.num_threads) == ([], 0)


HOLD = """
import os, time, torch
from pipeline.training.waiting import Teams

def until(num_threads):  # for a minute; OpenMP's threads begin and end on their own
    for _ in range(6000):
        if len(os.listdir("/proc/self/task")) == num_threads:
            return True
        time.sleep(0.01)

torch.set_num_threads(2)
torch.ones(2**18).add_(1.0)
before = len(os.listdir("/proc/self/task"))
teams = Teams(2, {cores})
print(until(before + {more}))
teams.end()
print(until(before))
"""


@pytest.mark.parametrize(("cores", "more"), [(2, 2), (4, 6)])
def test_a_team_is_one_of_threads_that_the_system_knows_and_goes_when_it_is_let_go(cores, more):
    # Two in a team, of which one holds it. Two teams of two are more than 2 cores have threads; for 4 cores it takes
    # the process's own and three more, by libgomp's way to count: 2, and one for each further team.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_THREAD_LIMIT"}
    command = [sys.executable, "-c", HOLD.format(cores=cores, more=more)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "True\nTrue\n", done.stderr
