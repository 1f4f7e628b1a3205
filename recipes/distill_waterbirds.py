"""Distils a guided ResNet-50 on Waterbirds-100, where the background gives the bird away: KD beside e²KD.

In training each bird is before its own background; the test asks for birds before the other one too. Figures are given
for each group, in distribution (groups 0 and 3), out of distribution (1 and 2) and for the worst group. Without
--teacher, one is trained by masks (--segmentations) or boxes (--cub), and saved for the next run.

    accelerate launch recipes/distill_waterbirds.py --dataset waterbird_1.0_forest2water2 --segmentations segmentations
    accelerate launch recipes/distill_waterbirds.py --dataset waterbird_1.0_forest2water2 --regime patient \\
        --teacher outputs/distill_waterbirds/teacher --student shufflenet --output_dir outputs/waterbirds_shufflenet
    accelerate launch recipes/distill_waterbirds.py --smoke
"""

from hf_e2kd.studies import run_side_by_side
from hf_e2kd.studies.waterbirds import waterbirds_setting

if __name__ == "__main__":
    run_side_by_side(waterbirds_setting(), "distill_waterbirds", __doc__)
