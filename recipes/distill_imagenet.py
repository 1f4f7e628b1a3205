"""Distils on ImageNet, or on 50 or 200 of its images a class: KD beside e²KD, from a teacher at hand or stored.

--preset chooses the pair and its training arguments, each of which can be given otherwise. The batch size is that of
one process: the paper's 256 on all images are four of them. With --frozen the teacher's logits and explanations are
computed once for each image, and crops and flips move them with it.

    accelerate launch recipes/distill_imagenet.py --dataset imagenet --shots 50
    accelerate launch recipes/distill_imagenet.py --dataset imagenet --preset bcos-densenet169-resnet18 --frozen \\
        --teacher_weights densenet_169-7037ee0604.pth
    accelerate launch recipes/distill_imagenet.py --smoke --preset bcos-densenet169-vitti --frozen
"""

from hf_e2kd.studies import run_side_by_side
from hf_e2kd.studies.imagenet import imagenet_setting

if __name__ == "__main__":
    run_side_by_side(imagenet_setting(), "distill_imagenet", __doc__)
