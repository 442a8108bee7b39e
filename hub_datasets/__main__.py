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
    synthesize.add_argument("--identities", type=int, default=72, help="faces in the train split")
    synthesize.add_argument("--test-identities", type=int, default=16, help="other faces, in the test split")
    synthesize.add_argument("--clips", type=int, default=18, help="clips a face")
    synthesize.add_argument("--num-frames", type=int, default=8, help="frames the model samples, for the flow column")
    synthesize.add_argument("--seed", type=int, default=0)
    synthesize.add_argument("--workers", type=int, default=2, help="processes")
    arguments = vars(parser.parse_args(argv))
    arguments.pop("command")
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
