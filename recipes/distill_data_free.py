"""Distils on images that have nothing to do with the teacher's task, and measures on the teacher's own data.

    accelerate launch recipes/distill_data_free.py --dataset imagenet --train_data SUN397 \\
        --teacher bcos/densenet169 --teacher_weights densenet_169-7037ee0604.pth
    accelerate launch recipes/distill_data_free.py --dataset SUN397 --train_data imagenet \\
        --teacher outputs/sun397_densenet169
    accelerate launch recipes/distill_data_free.py --smoke
"""

from hf_e2kd.studies import run_side_by_side
from hf_e2kd.studies.data_free import data_free_setting

if __name__ == "__main__":
    run_side_by_side(data_free_setting(), "distill_data_free", __doc__)
