"""Supervised fine-tuning of DEFT on a Uni-MER dataset.

    python train_sft.py --config recipes/tiny.yaml --dataset build/demo/data --output_dir build/deft-tiny

All of it is `deft_llm.training.run`; `--help` says more.
"""

import sys

from deft_llm.training.run import main

if __name__ == "__main__":
    sys.exit(main())
