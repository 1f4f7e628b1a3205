"""Do explanations move with the image? Diagonal shifts of 0 to 16 pixels, for a teacher and its students.

The explanation of the shifted image is compared with that of the image itself, by the cosine over the part that both
show. A network that cuts images in patches of 16 pixels finds them as they were at 16 pixels again.

    python recipes/shift_equivariance.py --dataset imagenet --models teacher=outputs/densenet169 \\
        KD=outputs/distill_imagenet/student-kd e2KD=outputs/distill_imagenet/student
    python recipes/shift_equivariance.py --dataset imagenet --models WinKawaks/vit-tiny-patch16-224 \\
        --explainers attention_rollout
    python recipes/shift_equivariance.py --smoke
"""

from hf_e2kd.studies.shifts import run_shift_test

if __name__ == "__main__":
    run_shift_test(__doc__)
