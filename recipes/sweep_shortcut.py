"""What passes from teachers to students where a shortcut pays: the embedded digits, whose background tells the class.

Three teachers (neutral; guided to the digit by masks; one that looks at the background), each with students by KD and
by e²KD, over the share of the training images in which the background tells the class. Measured out of distribution,
where it says nothing.

    accelerate launch recipes/sweep_shortcut.py
    accelerate launch recipes/sweep_shortcut.py --teachers neutral --correlations 0.8 0.9 0.95 --seeds 3
    accelerate launch recipes/sweep_shortcut.py --smoke
"""

from hf_e2kd.studies.demo import RESNET_ON_DIGITS
from hf_e2kd.studies.shortcuts import run_shortcuts

SETTING = RESNET_ON_DIGITS

if __name__ == "__main__":
    run_shortcuts(SETTING, "sweep_shortcut", __doc__)
