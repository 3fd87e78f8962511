"""The matrix of faults: what is done to a run, and what it promises. A test names its row: `fault(row=7)`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A row of the matrix."""

    name: str
    injection: str
    promise: str


MATRIX = {
    1: Fault(
        "SIGKILL at any time",
        "a process that forks real trainers, each killed after 0 to 150 ms; a checkpoint at every step",
        "nothing unloadable, no acknowledged step or row lost, final weights and rows of an undisturbed run",
    ),
    2: Fault(
        "death at each call that changes the disk",
        "`os._exit` at the n-th call, in the middle of a write, for every n: of a save, of a whole run",
        "what was acknowledged is there, the next start goes on, and ends as an undisturbed run",
    ),
    3: Fault(
        "power loss",
        "calls of the real writer recorded, then every legal state of the disk made: names in order and in any subset, "
        "unsynced bytes whole, absent, halved, zeros",
        "the newest acknowledged checkpoint is read back, with every row up to its step",
    ),
    4: Fault(
        "ENOSPC, EIO, EROFS, EDQUOT, short writes",
        "the n-th call fails for every n, once or from then on: of a save, of a whole run",
        "earlier checkpoints intact, no litter, training goes on; exit code 0 only if everything is on the disk",
    ),
    5: Fault(
        "a full disk",
        "a tmpfs of 2 MB filled while a run trains (RLIMIT_FSIZE where mounting is not allowed)",
        "rows wait in memory and are written when there is room; without room the run ends as failed and can go on",
    ),
    6: Fault(
        "a read-only place", "a read-only tmpfs, a directory without permission", "refused before anything is made"
    ),
    7: Fault(
        "a damaged checkpoint",
        "a bit flipped, the end cut or blanked, bytes added, a file removed",
        "recognised, reported, set aside; the one before is used",
    ),
    8: Fault(
        "torn ends of files",
        "metrics.jsonl, layers.jsonl and status.json cut at every byte of what was written last",
        "every row before the tear is read, the row after it too, and the run goes on",
    ),
    9: Fault(
        "SIGTERM and SIGINT",
        "in data, step, evaluation, diagnosis, checkpoint, tracker",
        "saved and exit 143 / 130; the second signal ends at once",
    ),
    10: Fault("SIGSTOP, then SIGCONT", "a training process stopped for seconds", "no limit misfires, the same numbers"),
    11: Fault(
        "NaN and Inf",
        "in loss, gradient and activation at step k, every policy, both backends",
        "no such parameter reaches a checkpoint; skipped steps change nothing; the run stays in the tables",
    ),
    12: Fault(
        "a tracker that cannot be reached",
        "a server that refuses, never answers, answers 500, answers after 5 s",
        "numbers of a run without tracker, no row missing, bounded end",
    ),
    13: Fault(
        "a tracker's service killed or stopped",
        "SIGKILL and SIGSTOP to wandb-core while rows are logged",
        "one warning, the loop never waits 50 ms, the next job is tracked",
    ),
    14: Fault(
        "a tracker fed again after faults",
        "`mhc-exp upload` cut off, killed, repeated; rows of a resumed run",
        "W&B has each step of each run exactly once",
    ),
    15: Fault(
        "every death of a job in a sweep",
        "raise, sys.exit, os._exit, SIGKILL, SIGSEGV, memory limit, timeout, SIGTERM",
        "the others finish, the table and status.json say what happened, the same command finishes the rest",
    ),
    16: Fault(
        "a sweep killed at random",
        "SIGKILL to the parent, and sometimes to the worker it left behind; the same command again",
        "finished jobs are not touched, the end is that of an undisturbed sweep",
    ),
    17: Fault(
        "several processes, one run",
        "2 to 4 starts of the same run or sweep at once",
        "one owner; the others refuse with its name or wait; no file interleaved",
    ),
    18: Fault(
        "a stale lock", "the owner killed; its process id in use again", "the next start has the lock within 1 s"
    ),
    19: Fault("starts in the same second", "4 starts at once", "no shared directory"),
    20: Fault(
        "resume", "stopped or killed after k steps, both backends", "rows, weights, optimizer state equal bit for bit"
    ),
    21: Fault("resume with something else", "other configuration, code or data", "refused with what differs"),
    22: Fault(
        "nondeterminism",
        "the same run in three processes, with 1 and 2 threads, float32 and bfloat16, both backends",
        "the same bits for the same number of threads; losses of 1 and 2 threads within 1e-6 (float32)",
    ),
    23: Fault("backend parity", "every wiring on both backends", "the same curve within rounding"),
    24: Fault("mistakes in a configuration", "bad values, typos, contradictions", "exit 2, key, rule and suggestion"),
    25: Fault("a hostile configuration", "code in YAML, resolvers, paths, names", "refused without side effect"),
    26: Fault("hostile files", "checkpoints and datasets made to harm", "refused with a message, nothing executed"),
    27: Fault("secrets", "canary keys in the environment", "in no file and no record"),
    28: Fault(
        "clock jumps",
        "the system's clock an hour back while a run trains; a change of time zone",
        "durations never negative, rows in order, the same numbers",
    ),
    29: Fault("a slow disk", "fsync takes as long as many steps", "no row lost, steps are not called slow"),
    30: Fault(
        "memory runs out in a step",
        "RLIMIT_AS below what the step needs",
        "failed with the reason, the next jobs run, the checkpoint stands",
    ),
    31: Fault("notebooks on bad runs", "empty, running, diverged, without rows", "they run and show the gaps"),
    32: Fault(
        "a long run",
        "`make soak`: a million rows and a thousand checkpoints",
        "memory grows less than 5 MB after warm-up, no descriptor leaks, `keep_checkpoints` on disk",
    ),
}
