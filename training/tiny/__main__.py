"""Train SkyReels V2 Tiny from scratch: draw the clips, train the parts, measure them, write models/skyreels-v2-tiny.

Files that exist are not made again, and a part that was interrupted resumes. On a CPU one process gains little from a
second core; two processes, which average their gradients, train on twice as many clips a step:

    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 -m training.tiny work --only denoiser
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from torch import distributed

from training.tiny import denoiser, judge, vae
from training.tiny.clips import SHARDS, draw_shards
from training.tiny.export import FOLDER, begin_with, export
from training.tiny.run import Budget, first_alone

PARTS = ("vae", "denoiser", "judge", "export")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.tiny", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="a folder for clips and checkpoints; takes 16 GB")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be given more than once")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop each part after so long, to be resumed"
    )
    parser.add_argument("--steps", type=int, help="steps of each part, instead of its default")
    parser.add_argument(
        "--within", type=float, metavar="MINUTES", help="train each part for so long, in any number of steps"
    )
    parser.add_argument(
        "--resume", action="store_true", help=f"start from the weights in {FOLDER.name} instead of from scratch"
    )
    flags = parser.parse_args()
    begin = FOLDER if flags.resume else None
    parts = flags.only or PARTS
    if "RANK" in os.environ:
        alone = flags.minutes < float("inf") or flags.within is not None
        if not flags.only or set(flags.only) - {"vae", "denoiser"} or alone:
            parser.error("several processes need --only vae or denoiser, and --steps instead of minutes")
        distributed.init_process_group("gloo")
    with first_alone():
        if begin is not None:
            begin_with(begin, flags.work)
        shards = draw_shards(flags.work / "films", SHARDS)

    def budget(steps: int) -> Budget:
        return Budget(flags.steps or steps, flags.within, flags.minutes)

    if "vae" in parts:
        vae.train(flags.work, shards, budget(vae.STEPS))
    if "denoiser" in parts:
        denoiser.train(flags.work, shards, budget(denoiser.STEPS), begin)
    if "judge" in parts:
        judge.train(flags.work, shards, budget(judge.STEPS))
    if "export" in parts:
        export(flags.work)


if __name__ == "__main__":
    main()
