"""Distils a ViT into a smaller ViT that looks where its teacher looks (GradCAM), beside plain distillation.

Without arguments: the embedded digits on textured backgrounds, in which the background predicts the class in the
student's training data and not at test. With --teacher, --student and --dataset: any image classifiers and images.

    accelerate launch recipes/distill_vit.py
    accelerate launch recipes/distill_vit.py --seeds 3
    accelerate launch recipes/distill_vit.py --teacher google/vit-base-patch16-224 \\
        --student WinKawaks/vit-tiny-patch16-224 --dataset ethz/food101 --output_dir outputs/food101
"""

from hf_e2kd.studies import run_side_by_side
from hf_e2kd.studies.demo import VIT_ON_DIGITS as SETTING

if __name__ == "__main__":
    run_side_by_side(SETTING, "distill_vit", __doc__)
