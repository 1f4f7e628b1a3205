"""Distils a ResNet into a smaller ResNet that looks where its teacher looks (GradCAM), beside plain distillation.

Without arguments: the embedded digits on textured backgrounds, in which the background predicts the class in the
student's training data and not at test. With --teacher, --student and --dataset: any image classifiers and images.

    accelerate launch recipes/distill_resnet.py
    accelerate launch recipes/distill_resnet.py --seeds 3
    accelerate launch recipes/distill_resnet.py --teacher microsoft/resnet-50 \\
        --student microsoft/resnet-18 --dataset ethz/food101 --output_dir outputs/food101
"""

from hf_e2kd.studies import run_side_by_side
from hf_e2kd.studies.demo import RESNET_ON_DIGITS

SETTING = RESNET_ON_DIGITS

if __name__ == "__main__":
    run_side_by_side(SETTING, "distill_resnet", __doc__)
