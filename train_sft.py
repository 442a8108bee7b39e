"""Supervised fine-tuning of DEFT on a Uni-MER dataset.

    accelerate launch train_sft.py --config recipes/tiny.yaml --dataset build/demo/data --output_dir build/deft-tiny

The same as `deft train`, as a file that accelerate and torchrun can start.
"""

import sys

from deft_llm.training.run import main

if __name__ == "__main__":
    sys.exit(main())
