"""Command line of the data: `python -m deft_llm.hub_datasets synthesize --out DIR`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deft_llm.hub_datasets", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    synthesize = commands.add_parser(
        "synthesize",
        help="render a labelled dataset of synthetic faces in the Uni-MER schema",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    synthesize.add_argument("--out", type=Path, required=True, help="folder to write; must not exist or be empty")
    synthesize.add_argument("--clips", type=int, default=1584, help="clips in both splits together")
    synthesize.add_argument(
        "--preset", default="easy", help="easy, realistic, entangled (looks go with emotions) or long (for spotting)"
    )
    synthesize.add_argument(
        "--conventions", nargs="+", default=["synthetic"], help="label conventions: synthetic, synthetic-b or both"
    )
    synthesize.add_argument("--clips-per-face", type=int, default=18)
    synthesize.add_argument("--test-share", type=float, default=0.18, help="share of the faces kept for testing")
    synthesize.add_argument("--corrupt", type=float, default=0.0, help="share of clips with one wrong label")
    synthesize.add_argument("--num-frames", type=int, default=8, help="frames the model samples, for the flow column")
    synthesize.add_argument("--size", type=int, help="side of the frames in pixels, if not the preset's")
    synthesize.add_argument("--seed", type=int, default=0)
    synthesize.add_argument("--workers", type=int, default=2, help="processes")
    arguments = vars(parser.parse_args(argv))
    arguments.pop("command")
    arguments["conventions"] = tuple(arguments["conventions"])
    # Imported late: --help should not wait for torch.
    from .build_synthetic import build

    try:
        build(**arguments)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
