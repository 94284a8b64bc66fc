"""Train SkyReels V2 Tiny from nothing: draw the films, train its parts, judge them, write models/skyreels-v2-tiny.

Whatever is there already is not made again, and a part that was broken off goes on where it stood. On a CPU one process
gains little from a second core; two of them, which share what they learn, see twice as many clips a step:

    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 -m training.tiny work --only denoiser
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from torch import distributed

from training.tiny import denoiser, judge, vae
from training.tiny.export import FOLDER, begin_with, export
from training.tiny.films import SHARDS, draw_shards
from training.tiny.run import Goal, first_alone

PARTS = ("vae", "denoiser", "judge", "export")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.tiny", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="a folder for films and what training leaves; takes 16 GB")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone; may be given more than once")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="at most so long for each part, for now")
    parser.add_argument("--steps", type=int, help="of each part, instead of its own number")
    parser.add_argument("--within", type=float, metavar="MINUTES", help="as many steps of each part as this allows")
    parser.add_argument(
        "--go-on", action="store_true", help=f"begin with the weights in {FOLDER.name}, not with nothing"
    )
    flags = parser.parse_args()
    begin = FOLDER if flags.go_on else None
    parts = flags.only or PARTS
    if "RANK" in os.environ:
        alone = flags.minutes < float("inf") or flags.within is not None
        if not flags.only or set(flags.only) - {"vae", "denoiser"} or alone:
            parser.error("processes train together with --only vae or denoiser, and to --steps, not for minutes")
        distributed.init_process_group("gloo")
    with first_alone():
        if begin is not None:
            begin_with(begin, flags.work)
        shards = draw_shards(flags.work / "films", SHARDS)

    def goal(steps: int) -> Goal:
        return Goal(flags.steps or steps, flags.within, flags.minutes)

    if "vae" in parts:
        vae.train(flags.work, shards, goal(vae.STEPS))
    if "denoiser" in parts:
        denoiser.train(flags.work, shards, goal(denoiser.STEPS), begin)
    if "judge" in parts:
        judge.train(flags.work, shards, goal(judge.STEPS))
    if "export" in parts:
        export(flags.work)


if __name__ == "__main__":
    main()
